//! Sandbox steps: what the shim of a container carries out before and around its first process.
//!
//! Descriptors are numbers of the shim's own table, fixed when it was spawned.

use std::ffi::CStr;

use crate::VERSION;
use crate::codec::{Malformed, Reader, Writer};

/// First bytes of a plan: `HULL` and the version.
const MAGIC: u32 = u32::from_le_bytes(*b"HULL");
const WHAT: &str = "plan";

/// One sandbox step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// What it is called: the short id.
    Name(&'a CStr),
    /// New namespaces, as bits of `CLONE_NEW*`.
    Namespaces(u64),
    /// Enter the namespaces `kinds` of `fd`.
    Join {
        /// Bits of `CLONE_NEW*`.
        kinds: u64,
        /// A namespace.
        fd: i32,
    },
    /// One range of user ids of an own user namespace.
    UidMap(IdMap),
    /// One range of group ids.
    GidMap(IdMap),
    /// The root file system.
    Root(Root<'a>),
    /// A layer, the topmost first.
    LowerDescriptor(i32),
    /// Directory that names of layers are relative to.
    LowerBase(&'a CStr),
    /// A layer by name, the topmost first.
    LowerName(&'a CStr),
    /// Host name and domain name; empty: unchanged.
    HostName(&'a CStr, &'a CStr),
    /// rtnetlink requests: in the host's network namespace, then inside. The descriptor of the
    /// inner one is written at the offset; `u32::MAX`: nowhere.
    Links {
        /// For the host's namespace.
        host: &'a [u8],
        /// For the container's.
        inside: &'a [u8],
        /// Offset in `host`.
        netns_fd_offset: u32,
    },
    /// A mount inside.
    Mount(Mount<'a>),
    /// Hide a path.
    Mask(&'a CStr),
    /// Make a path read-only.
    ReadOnly(&'a CStr),
    /// Make a device node.
    Device(Device<'a>),
    /// Cgroup path and limits in the form of `hull_os::cgroup`.
    Cgroup {
        /// The hierarchies in the form of `hull_os::cgroup`.
        hierarchies: &'a CStr,
        /// Relative to the root of each hierarchy.
        path: &'a CStr,
        /// Encoded limits.
        limits: &'a [u8],
    },
    /// A kernel setting: path below `/proc/sys`, value.
    Sysctl(&'a CStr, &'a CStr),
    /// How ready the kernel is to kill the first process.
    OomScoreAdj(i32),
    /// The files of the log.
    Log(Log<'a>),
    /// A service on the host that gets the log too.
    LogService(LogService<'a>),
    /// A client that is attached from the beginning.
    Attachment(Attachment),
    /// A socket that the shim keeps open for the daemon as long as the container lives.
    Keep {
        /// What the daemon calls it.
        key: u32,
        /// The socket.
        fd: i32,
    },
    /// Sockets of a name server inside, to be kept: bound to a port of 127.0.0.11, and requests of
    /// nf_tables that lead questions there.
    Resolver {
        /// The port of both sockets.
        port: u32,
        /// The requests, ready-made.
        rules: &'a [u8],
    },
    /// Share `/dev/shm` with the container whose mount namespace this is.
    SharedMemory(i32),
    /// Our own init is process 1.
    Init,
    /// A file server that its machine has.
    Share {
        /// Where it listens.
        listener: i32,
        /// It must not write.
        readonly: bool,
        /// Directory of the host.
        source: &'a CStr,
        /// Its command, as process steps.
        command: &'a [u8],
    },
    /// The files are those of a guest, whose file server is at the other end of this stream.
    Files(i32),
    /// The first process is a machine: what it runs is in its guest.
    Machine {
        /// Our end of the agent's channel.
        agent: i32,
        /// Terminal and standard input of the guest's first process, as process steps.
        stdio: &'a [u8],
        /// A [`crate::frame::Guest`].
        guest: &'a [u8],
    },
    /// What runs: process steps.
    Process(&'a [u8]),
}

/// One range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    /// First id inside.
    pub inside: u32,
    /// First id on the host.
    pub host: u32,
    /// How many.
    pub count: u32,
}

/// The root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root<'a> {
    /// Directory that takes changes.
    pub upper: &'a CStr,
    /// Overlay's own directory.
    pub work: &'a CStr,
    /// Cannot be written.
    pub readonly: bool,
    /// How mounts travel.
    pub propagation: Propagation,
}

/// How mounts travel between peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    Private,
    /// Both ways.
    Shared,
    /// Only into the container.
    Slave,
}

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountKind {
    /// A path of the host, alone.
    Bind,
    /// A path of the host with what is mounted below.
    BindRecursive,
    /// The same, with the owners that it has inside.
    BindMapped,
    /// Memory.
    Tmpfs,
    /// `/proc`.
    Proc,
    /// `/sys`.
    Sysfs,
    /// `/dev/pts`.
    Devpts,
    /// `/dev/mqueue`.
    Mqueue,
    /// `/sys/fs/cgroup`.
    Cgroup,
}

const MOUNT_KINDS: [MountKind; 9] = [
    MountKind::Bind,
    MountKind::BindRecursive,
    MountKind::BindMapped,
    MountKind::Tmpfs,
    MountKind::Proc,
    MountKind::Sysfs,
    MountKind::Devpts,
    MountKind::Mqueue,
    MountKind::Cgroup,
];

/// A mount inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mount<'a> {
    /// What is mounted.
    pub kind: MountKind,
    /// Bits of `MOUNT_ATTR_*`.
    pub attributes: u64,
    /// How mounts below travel; for binds.
    pub propagation: Propagation,
    /// Path on the host; for binds.
    pub source: &'a CStr,
    /// Path inside.
    pub destination: &'a CStr,
    /// Options of the file system.
    pub data: &'a CStr,
}

/// A device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device<'a> {
    /// Path inside.
    pub path: &'a CStr,
    /// Type and permission bits.
    pub mode: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log<'a> {
    /// Its directory.
    pub dir: i32,
    /// Its name there.
    pub name: &'a CStr,
    /// Bytes after which it is rotated; 0: never.
    pub size_max: u64,
    /// Files kept, at least 1.
    pub files_max: u32,
    /// What each line has beside its text, as it is written before the time:
    /// `,"attrs":{"tag":"web"}`, or nothing.
    pub attributes: &'a [u8],
}

/// How a log service wants a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogForm {
    /// The journal's own protocol.
    Journal,
    /// As programs speak to the syslog of their own host.
    SyslogUnix,
    /// RFC 3164.
    Rfc3164,
    /// RFC 5424.
    Rfc5424,
    /// RFC 5424, with microseconds.
    Rfc5424Micro,
}

const LOG_FORMS: [LogForm; 5] = [
    LogForm::Journal,
    LogForm::SyslogUnix,
    LogForm::Rfc3164,
    LogForm::Rfc5424,
    LogForm::Rfc5424Micro,
];

/// A service on the host that gets the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogService<'a> {
    /// Where it is, in the kernel's form of an address.
    pub address: &'a [u8],
    /// It takes messages, not a stream.
    pub datagrams: bool,
    /// How it wants a line.
    pub form: LogForm,
    /// Which part of the system speaks, shifted as in a syslog priority.
    pub facility: u32,
    /// Name of the host, in forms that have it.
    pub host: &'a CStr,
    /// What names the container in each line.
    pub tag: &'a CStr,
    /// Fields of each entry of the journal, in its own form.
    pub fields: &'a [u8],
    /// Bytes that may wait before lines are dropped; 0: the container waits instead.
    pub buffer_max: u64,
}

/// Which streams a client has, as bits.
pub mod streams {
    /// What arrives is given to the process.
    pub const STDIN: u32 = 1;
    /// Standard output is sent.
    pub const STDOUT: u32 = 2;
    /// Standard error is sent.
    pub const STDERR: u32 = 4;
    /// Each piece has Docker's header.
    pub const FRAMED: u32 = 8;
}

/// A client that is attached from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment {
    /// Its socket.
    pub fd: i32,
    /// Bits of [`streams`].
    pub streams: u32,
}

mod tag {
    pub(super) const NAME: u16 = 1;
    pub(super) const NAMESPACES: u16 = 2;
    pub(super) const JOIN: u16 = 3;
    pub(super) const UID_MAP: u16 = 4;
    pub(super) const GID_MAP: u16 = 5;
    pub(super) const ROOT: u16 = 6;
    pub(super) const LOWER_DESCRIPTOR: u16 = 7;
    pub(super) const LOWER_BASE: u16 = 8;
    pub(super) const LOWER_NAME: u16 = 9;
    pub(super) const HOST_NAME: u16 = 10;
    pub(super) const LINKS: u16 = 11;
    pub(super) const MOUNT: u16 = 12;
    pub(super) const MASK: u16 = 13;
    pub(super) const READ_ONLY: u16 = 14;
    pub(super) const DEVICE: u16 = 15;
    pub(super) const CGROUP: u16 = 16;
    pub(super) const SYSCTL: u16 = 17;
    pub(super) const OOM_SCORE_ADJ: u16 = 18;
    pub(super) const LOG: u16 = 19;
    pub(super) const ATTACHMENT: u16 = 20;
    pub(super) const INIT: u16 = 21;
    pub(super) const PROCESS: u16 = 22;
    pub(super) const KEEP: u16 = 23;
    pub(super) const LOG_SERVICE: u16 = 24;
    pub(super) const RESOLVER: u16 = 25;
    pub(super) const SHARED_MEMORY: u16 = 26;
    pub(super) const MACHINE: u16 = 27;
    pub(super) const SHARE: u16 = 28;
    pub(super) const FILES: u16 = 29;
}

impl Propagation {
    fn encode(self, w: &mut Writer) {
        w.u32(match self {
            Propagation::Private => 0,
            Propagation::Shared => 1,
            Propagation::Slave => 2,
        });
    }

    fn decode(r: &mut Reader<'_>) -> Result<Propagation, Malformed> {
        match r.u32()? {
            0 => Ok(Propagation::Private),
            1 => Ok(Propagation::Shared),
            2 => Ok(Propagation::Slave),
            _ => Err(Malformed {
                what: "propagation",
            }),
        }
    }
}

impl Log<'_> {
    fn encode(&self, w: &mut Writer) {
        w.i32(self.dir);
        w.text(self.name);
        w.u64(self.size_max);
        w.u32(self.files_max);
        w.blob(self.attributes);
    }
}

impl<'a> LogService<'a> {
    fn encode(&self, w: &mut Writer) {
        let form = LOG_FORMS.iter().position(|&form| form == self.form);
        w.blob(self.address);
        w.bool(self.datagrams);
        w.u32(
            form.and_then(|form| u32::try_from(form).ok())
                .unwrap_or(u32::MAX),
        );
        w.u32(self.facility);
        w.text(self.host);
        w.text(self.tag);
        w.blob(self.fields);
        w.u64(self.buffer_max);
    }

    fn decode(r: &mut Reader<'a>) -> Result<LogService<'a>, Malformed> {
        Ok(LogService {
            address: r.blob()?,
            datagrams: r.bool()?,
            form: *LOG_FORMS.get(r.u32()? as usize).ok_or(Malformed {
                what: "form of a log",
            })?,
            facility: r.u32()?,
            host: r.text()?,
            tag: r.text()?,
            fields: r.blob()?,
            buffer_max: r.u64()?,
        })
    }
}

impl IdMap {
    fn encode(self, w: &mut Writer) {
        w.u32(self.inside);
        w.u32(self.host);
        w.u32(self.count);
    }

    fn decode(r: &mut Reader<'_>) -> Result<IdMap, Malformed> {
        Ok(IdMap {
            inside: r.u32()?,
            host: r.u32()?,
            count: r.u32()?,
        })
    }
}

impl<'a> Mount<'a> {
    fn encode(&self, w: &mut Writer) {
        let kind = MOUNT_KINDS.iter().position(|&kind| kind == self.kind);
        w.u32(
            kind.and_then(|kind| u32::try_from(kind).ok())
                .unwrap_or(u32::MAX),
        );
        w.u64(self.attributes);
        self.propagation.encode(w);
        w.text(self.source);
        w.text(self.destination);
        w.text(self.data);
    }

    fn decode(r: &mut Reader<'a>) -> Result<Mount<'a>, Malformed> {
        let kind = r.u32()? as usize;
        Ok(Mount {
            kind: *MOUNT_KINDS.get(kind).ok_or(Malformed {
                what: "kind of mount",
            })?,
            attributes: r.u64()?,
            propagation: Propagation::decode(r)?,
            source: r.text()?,
            destination: r.text()?,
            data: r.text()?,
        })
    }
}

impl<'a> Device<'a> {
    fn encode(&self, w: &mut Writer) {
        w.text(self.path);
        for number in [self.mode, self.major, self.minor, self.uid, self.gid] {
            w.u32(number);
        }
    }

    fn decode(r: &mut Reader<'a>) -> Result<Device<'a>, Malformed> {
        Ok(Device {
            path: r.text()?,
            mode: r.u32()?,
            major: r.u32()?,
            minor: r.u32()?,
            uid: r.u32()?,
            gid: r.u32()?,
        })
    }
}

impl<'a> Step<'a> {
    /// Writes the step.
    pub fn encode(&self, w: &mut Writer) {
        match *self {
            Step::Name(name) => w.record(tag::NAME, |w| w.text(name)),
            Step::Namespaces(kinds) => w.record(tag::NAMESPACES, |w| w.u64(kinds)),
            Step::Join { kinds, fd } => w.record(tag::JOIN, |w| {
                w.u64(kinds);
                w.i32(fd);
            }),
            Step::UidMap(map) => w.record(tag::UID_MAP, |w| map.encode(w)),
            Step::GidMap(map) => w.record(tag::GID_MAP, |w| map.encode(w)),
            Step::Root(root) => w.record(tag::ROOT, |w| {
                w.text(root.upper);
                w.text(root.work);
                w.bool(root.readonly);
                root.propagation.encode(w);
            }),
            Step::LowerDescriptor(fd) => w.record(tag::LOWER_DESCRIPTOR, |w| w.i32(fd)),
            Step::SharedMemory(fd) => w.record(tag::SHARED_MEMORY, |w| w.i32(fd)),
            Step::LowerBase(path) => w.record(tag::LOWER_BASE, |w| w.text(path)),
            Step::LowerName(name) => w.record(tag::LOWER_NAME, |w| w.text(name)),
            Step::HostName(host, domain) => w.record(tag::HOST_NAME, |w| {
                w.text(host);
                w.text(domain);
            }),
            Step::Links {
                host,
                inside,
                netns_fd_offset,
            } => w.record(tag::LINKS, |w| {
                w.blob(host);
                w.blob(inside);
                w.u32(netns_fd_offset);
            }),
            Step::Mount(mount) => w.record(tag::MOUNT, |w| mount.encode(w)),
            Step::Mask(path) => w.record(tag::MASK, |w| w.text(path)),
            Step::ReadOnly(path) => w.record(tag::READ_ONLY, |w| w.text(path)),
            Step::Device(device) => w.record(tag::DEVICE, |w| device.encode(w)),
            Step::Cgroup {
                hierarchies,
                path,
                limits,
            } => w.record(tag::CGROUP, |w| {
                w.text(hierarchies);
                w.text(path);
                w.blob(limits);
            }),
            Step::Sysctl(path, value) => w.record(tag::SYSCTL, |w| {
                w.text(path);
                w.text(value);
            }),
            Step::OomScoreAdj(value) => w.record(tag::OOM_SCORE_ADJ, |w| w.i32(value)),
            Step::Log(log) => w.record(tag::LOG, |w| log.encode(w)),
            Step::LogService(service) => w.record(tag::LOG_SERVICE, |w| service.encode(w)),
            Step::Attachment(attachment) => w.record(tag::ATTACHMENT, |w| {
                w.i32(attachment.fd);
                w.u32(attachment.streams);
            }),
            Step::Keep { key, fd } => w.record(tag::KEEP, |w| {
                w.u32(key);
                w.i32(fd);
            }),
            Step::Resolver { port, rules } => w.record(tag::RESOLVER, |w| {
                w.u32(port);
                w.blob(rules);
            }),
            Step::Init => w.record(tag::INIT, |_| ()),
            Step::Share { .. } | Step::Machine { .. } | Step::Files(_) => self.encode_machine(w),
            Step::Process(steps) => w.record(tag::PROCESS, |w| w.blob(steps)),
        }
    }

    /// Writes a step that only machines have.
    fn encode_machine(&self, w: &mut Writer) {
        match *self {
            Step::Share {
                listener,
                readonly,
                source,
                command,
            } => w.record(tag::SHARE, |w| {
                w.i32(listener);
                w.bool(readonly);
                w.text(source);
                w.blob(command);
            }),
            Step::Machine {
                agent,
                stdio,
                guest,
            } => w.record(tag::MACHINE, |w| {
                w.i32(agent);
                w.blob(stdio);
                w.blob(guest);
            }),
            Step::Files(fd) => w.record(tag::FILES, |w| w.i32(fd)),
            _ => {}
        }
    }

    fn decode(tag: u16, r: &mut Reader<'a>) -> Result<Step<'a>, Malformed> {
        Ok(match tag {
            tag::SHARE => Step::Share {
                listener: r.i32()?,
                readonly: r.bool()?,
                source: r.text()?,
                command: r.blob()?,
            },
            tag::FILES => Step::Files(r.i32()?),
            tag::NAME => Step::Name(r.text()?),
            tag::NAMESPACES => Step::Namespaces(r.u64()?),
            tag::JOIN => Step::Join {
                kinds: r.u64()?,
                fd: r.i32()?,
            },
            tag::UID_MAP => Step::UidMap(IdMap::decode(r)?),
            tag::GID_MAP => Step::GidMap(IdMap::decode(r)?),
            tag::ROOT => Step::Root(Root {
                upper: r.text()?,
                work: r.text()?,
                readonly: r.bool()?,
                propagation: Propagation::decode(r)?,
            }),
            tag::LOWER_DESCRIPTOR => Step::LowerDescriptor(r.i32()?),
            tag::SHARED_MEMORY => Step::SharedMemory(r.i32()?),
            tag::LOWER_BASE => Step::LowerBase(r.text()?),
            tag::LOWER_NAME => Step::LowerName(r.text()?),
            tag::HOST_NAME => Step::HostName(r.text()?, r.text()?),
            tag::LINKS => Step::Links {
                host: r.blob()?,
                inside: r.blob()?,
                netns_fd_offset: r.u32()?,
            },
            tag::MOUNT => Step::Mount(Mount::decode(r)?),
            tag::MASK => Step::Mask(r.text()?),
            tag::READ_ONLY => Step::ReadOnly(r.text()?),
            tag::DEVICE => Step::Device(Device::decode(r)?),
            tag::CGROUP => Step::Cgroup {
                hierarchies: r.text()?,
                path: r.text()?,
                limits: r.blob()?,
            },
            tag::SYSCTL => Step::Sysctl(r.text()?, r.text()?),
            tag::OOM_SCORE_ADJ => Step::OomScoreAdj(r.i32()?),
            tag::LOG => Step::Log(Log {
                dir: r.i32()?,
                name: r.text()?,
                size_max: r.u64()?,
                files_max: r.u32()?,
                attributes: r.blob()?,
            }),
            tag::LOG_SERVICE => Step::LogService(LogService::decode(r)?),
            tag::ATTACHMENT => Step::Attachment(Attachment {
                fd: r.i32()?,
                streams: r.u32()?,
            }),
            tag::KEEP => Step::Keep {
                key: r.u32()?,
                fd: r.i32()?,
            },
            tag::RESOLVER => Step::Resolver {
                port: r.u32()?,
                rules: r.blob()?,
            },
            tag::INIT => Step::Init,
            tag::MACHINE => Step::Machine {
                agent: r.i32()?,
                stdio: r.blob()?,
                guest: r.blob()?,
            },
            tag::PROCESS => Step::Process(r.blob()?),
            // Leaving out a step that we do not know could leave out a wall.
            _ => {
                return Err(Malformed {
                    what: "step of an unknown kind",
                });
            }
        })
    }
}

/// A plan that was read once from end to end, so its steps are well-formed.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    steps: &'a [u8],
}

impl<'a> Plan<'a> {
    /// Writes the header of a plan; steps follow.
    pub fn begin() -> Writer {
        let mut w = Writer::default();
        w.u32(MAGIC);
        w.u32(VERSION);
        w
    }

    /// Reads a plan.
    ///
    /// # Errors
    /// When it has another version or any step is not well-formed.
    pub fn parse(bytes: &'a [u8]) -> Result<Plan<'a>, Malformed> {
        /// Of magic and version.
        const HEADER_BYTES: usize = 8;
        let mut header = Reader::new(bytes, WHAT);
        if header.u32()? != MAGIC || header.u32()? != VERSION {
            return Err(Malformed {
                what: "header of a plan",
            });
        }
        let plan = Plan {
            steps: &bytes[HEADER_BYTES..],
        };
        let mut records = Reader::new(plan.steps, WHAT);
        while let Some((tag, mut fields)) = records.record()? {
            if let Step::Process(steps) = Step::decode(tag, &mut fields)? {
                crate::Process::parse(steps)?;
            }
        }
        Ok(plan)
    }

    /// Its steps in order.
    pub fn steps(&self) -> impl Iterator<Item = Step<'a>> + use<'a> {
        let mut records = Reader::new(self.steps, WHAT);
        std::iter::from_fn(move || {
            let (tag, mut fields) = records.record().ok()??;
            Step::decode(tag, &mut fields).ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ProcessStep;

    fn log_service() -> LogService<'static> {
        LogService {
            address: &[1, 0, 47],
            datagrams: true,
            form: LogForm::Rfc5424,
            facility: 24,
            host: c"h",
            tag: c"t",
            fields: b"A=b\n",
            buffer_max: 9,
        }
    }

    fn all_steps(process: &[u8]) -> Vec<Step<'_>> {
        let map = IdMap {
            inside: 0,
            host: 100_000,
            count: 65536,
        };
        vec![
            Step::Name(c"0123456789ab"),
            Step::Namespaces(0x2c02_0000),
            Step::Join {
                kinds: 0x4000_0000,
                fd: 9,
            },
            Step::UidMap(map),
            Step::GidMap(map),
            Step::Root(Root {
                upper: c"/u",
                work: c"/w",
                readonly: true,
                propagation: Propagation::Slave,
            }),
            Step::LowerDescriptor(10),
            Step::SharedMemory(11),
            Step::Files(12),
            Step::LowerBase(c"/l"),
            Step::LowerName(c"0"),
            Step::HostName(c"web", c""),
            Step::Links {
                host: b"h",
                inside: b"",
                netns_fd_offset: 8,
            },
            Step::Mount(Mount {
                kind: MountKind::Cgroup,
                attributes: 15,
                propagation: Propagation::Private,
                source: c"",
                destination: c"/sys/fs/cgroup",
                data: c"",
            }),
            Step::Mask(c"/proc/kcore"),
            Step::ReadOnly(c"/proc/sys"),
            Step::Device(Device {
                path: c"/dev/null",
                mode: 0o20666,
                major: 1,
                minor: 3,
                uid: 0,
                gid: 0,
            }),
            Step::Cgroup {
                hierarchies: c"cpu /c",
                path: c"hull/x",
                limits: b"12",
            },
            Step::Sysctl(c"net/ipv4/ip_forward", c"1"),
            Step::OomScoreAdj(-5),
            Step::Log(Log {
                dir: 4,
                name: c"x-json.log",
                size_max: 1,
                files_max: 2,
                attributes: b",\"attrs\":{}",
            }),
            Step::LogService(log_service()),
            Step::Attachment(Attachment {
                fd: 11,
                streams: streams::STDIN | streams::FRAMED,
            }),
            Step::Keep { key: 3, fd: 12 },
            Step::Resolver {
                port: 40_000,
                rules: b"r",
            },
            Step::Init,
            Step::Process(process),
        ]
    }

    #[test]
    fn every_step_comes_back_as_it_was() {
        let mut process = Writer::default();
        ProcessStep::Arg(c"sh").encode(&mut process);
        let process = process.finish();
        let steps = all_steps(&process);
        let mut writer = Plan::begin();
        steps.iter().for_each(|step| step.encode(&mut writer));
        let bytes = writer.finish();
        let plan = Plan::parse(&bytes).unwrap();
        assert_eq!(plan.steps().collect::<Vec<_>>(), steps);
    }

    /// A small deterministic generator, so that a failure can be repeated.
    fn random(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    }

    #[test]
    fn garbage_never_panics_and_cut_plans_are_refused() {
        let mut process = Writer::default();
        ProcessStep::Env(c"A=b").encode(&mut process);
        let process = process.finish();
        let mut writer = Plan::begin();
        let steps = all_steps(&process);
        steps.iter().for_each(|step| step.encode(&mut writer));
        let bytes = writer.finish();
        let mut whole = 0;
        for length in 0..bytes.len() {
            whole += usize::from(Plan::parse(&bytes[..length]).is_ok());
        }
        assert_eq!(
            whole,
            steps.len(),
            "only a cut between two steps is well-formed"
        );
        let mut seed = 0x1234_5678_9abc_def1;
        for _ in 0..50_000 {
            let mut changed = bytes.clone();
            for _ in 0..=random(&mut seed) % 4 {
                let at = (random(&mut seed) % changed.len() as u64) as usize;
                changed[at] = random(&mut seed) as u8;
            }
            if let Ok(plan) = Plan::parse(&changed) {
                assert!(plan.steps().count() <= steps.len() + changed.len());
            }
        }
    }
}
