//! What a cgroup may use, as plain numbers: no opinion about what is sensible.

use super::devices::DeviceRule;

/// Limits of a cgroup. The default limits nothing; 0 and empty mean "not given" throughout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory; -1: unlimited.
    pub memory_bytes: i64,
    /// What is left to it when memory is short.
    pub memory_reservation_bytes: i64,
    /// Memory and swap together; -1: unlimited swap.
    pub memory_swap_bytes: i64,
    /// How readily memory is swapped out, 0 to 100. Only v1.
    pub memory_swappiness: Option<u8>,
    /// Processes wait for memory instead of being killed. Only v1.
    pub oom_kill_disable: bool,
    /// Relative weight, 1024 being normal.
    pub cpu_shares: u64,
    /// Microseconds of processor time in each period; -1: unlimited.
    pub cpu_quota_us: i64,
    /// Length of a period in microseconds.
    pub cpu_period_us: u64,
    /// Microseconds of real-time scheduling in each period. Only v1.
    pub cpu_realtime_runtime_us: i64,
    /// Length of that period in microseconds. Only v1.
    pub cpu_realtime_period_us: u64,
    /// Processors, as in `0-2,4`.
    pub cpuset_cpus: String,
    /// Memory nodes, as in `0,1`.
    pub cpuset_mems: String,
    /// Processes and threads; -1: unlimited.
    pub pids: i64,
    /// Relative weight of block I/O, 10 to 1000.
    pub blkio_weight: u16,
    /// Weights and rates by device.
    pub blkio_devices: Vec<BlkioLimit>,
    /// Bytes of huge pages by page size as the kernel writes it: `2MB`.
    pub hugepages: Vec<(String, u64)>,
    /// Which devices may be used; empty: all. See [`DeviceRule`] for their order.
    pub devices: Vec<DeviceRule>,
    /// Files of v2 and what is written to them, as they are.
    pub unified: Vec<(String, String)>,
}

/// A limit of one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlkioLimit {
    /// What is limited.
    pub kind: BlkioKind,
    /// Major number of the device.
    pub major: u32,
    /// Minor number of the device.
    pub minor: u32,
    /// Weight, bytes per second or operations per second.
    pub value: u64,
}

/// What a [`BlkioLimit`] limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlkioKind {
    /// Relative weight.
    Weight,
    /// Bytes read per second.
    ReadBytes,
    /// Bytes written per second.
    WriteBytes,
    /// Reads per second.
    ReadOperations,
    /// Writes per second.
    WriteOperations,
}

impl BlkioKind {
    const ALL: [BlkioKind; 5] = [
        BlkioKind::Weight,
        BlkioKind::ReadBytes,
        BlkioKind::WriteBytes,
        BlkioKind::ReadOperations,
        BlkioKind::WriteOperations,
    ];
}

/// Bytes that [`Limits::encode`] did not make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("limits of a cgroup are malformed")]
pub struct MalformedLimits;

impl From<MalformedLimits> for std::io::Error {
    fn from(error: MalformedLimits) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Numbers come first in the encoding, in this order.
const NUMBERS: usize = 12;

impl Limits {
    fn numbers(&self) -> [i64; NUMBERS] {
        // Unsigned fields travel as their bits.
        [
            self.memory_bytes,
            self.memory_reservation_bytes,
            self.memory_swap_bytes,
            self.memory_swappiness.map_or(-1, i64::from),
            i64::from(self.oom_kill_disable),
            self.cpu_shares.cast_signed(),
            self.cpu_quota_us,
            self.cpu_period_us.cast_signed(),
            self.cpu_realtime_runtime_us,
            self.cpu_realtime_period_us.cast_signed(),
            self.pids,
            i64::from(self.blkio_weight),
        ]
    }

    /// Writes them as bytes, for a program of the same version.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(NUMBERS * 8 + 64 + self.devices.len() * 17);
        for number in self.numbers() {
            out.extend(number.to_le_bytes());
        }
        put_text(&mut out, &self.cpuset_cpus);
        put_text(&mut out, &self.cpuset_mems);
        put_length(&mut out, self.blkio_devices.len());
        for limit in &self.blkio_devices {
            let kind = BlkioKind::ALL
                .iter()
                .position(|kind| *kind == limit.kind)
                .unwrap_or(0);
            put_length(&mut out, kind);
            out.extend(limit.major.to_le_bytes());
            out.extend(limit.minor.to_le_bytes());
            out.extend(limit.value.to_le_bytes());
        }
        put_length(&mut out, self.hugepages.len());
        for (size, bytes) in &self.hugepages {
            put_text(&mut out, size);
            out.extend(bytes.to_le_bytes());
        }
        put_length(&mut out, self.devices.len());
        for rule in &self.devices {
            put_text(&mut out, &rule.to_string());
        }
        put_length(&mut out, self.unified.len());
        for (file, value) in &self.unified {
            put_text(&mut out, file);
            put_text(&mut out, value);
        }
        out
    }

    /// Reads what [`Limits::encode`] wrote.
    ///
    /// # Errors
    /// [`MalformedLimits`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, MalformedLimits> {
        let mut from = Cursor(bytes);
        let mut n = [0; NUMBERS];
        for number in &mut n {
            *number = from.number()?;
        }
        let limits = Self {
            memory_bytes: n[0],
            memory_reservation_bytes: n[1],
            memory_swap_bytes: n[2],
            memory_swappiness: u8::try_from(n[3]).ok(),
            oom_kill_disable: n[4] != 0,
            cpu_shares: n[5].cast_unsigned(),
            cpu_quota_us: n[6],
            cpu_period_us: n[7].cast_unsigned(),
            cpu_realtime_runtime_us: n[8],
            cpu_realtime_period_us: n[9].cast_unsigned(),
            pids: n[10],
            blkio_weight: u16::try_from(n[11]).map_err(|_| MalformedLimits)?,
            cpuset_cpus: from.text()?,
            cpuset_mems: from.text()?,
            blkio_devices: from.list(Cursor::blkio)?,
            hugepages: from.list(|from| Ok((from.text()?, from.number()?.cast_unsigned())))?,
            devices: from.list(|from| from.text()?.parse().map_err(|_| MalformedLimits))?,
            unified: from.list(|from| Ok((from.text()?, from.text()?)))?,
        };
        if from.0.is_empty() {
            Ok(limits)
        } else {
            Err(MalformedLimits)
        }
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_length(out, text.len());
    out.extend(text.as_bytes());
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], MalformedLimits> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(MalformedLimits)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<i64, MalformedLimits> {
        let bytes = self.take(8)?.try_into().map_err(|_| MalformedLimits)?;
        Ok(i64::from_le_bytes(bytes))
    }

    fn half(&mut self) -> Result<u32, MalformedLimits> {
        let bytes = self.take(4)?.try_into().map_err(|_| MalformedLimits)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn length(&mut self) -> Result<usize, MalformedLimits> {
        usize::try_from(self.half()?).map_err(|_| MalformedLimits)
    }

    fn text(&mut self) -> Result<String, MalformedLimits> {
        let length = self.length()?;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| MalformedLimits)
    }

    fn list<T>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<T, MalformedLimits>,
    ) -> Result<Vec<T>, MalformedLimits> {
        // No memory is reserved for a length that nobody checked.
        (0..self.length()?).map(|_| one(self)).collect()
    }

    fn blkio(&mut self) -> Result<BlkioLimit, MalformedLimits> {
        let kind = *BlkioKind::ALL.get(self.length()?).ok_or(MalformedLimits)?;
        let (major, minor) = (self.half()?, self.half()?);
        Ok(BlkioLimit {
            kind,
            major,
            minor,
            value: self.number()?.cast_unsigned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{BlkioKind, BlkioLimit, Limits, MalformedLimits};
    use crate::cgroup::devices::CONTAINER_RULES;

    fn full() -> Limits {
        Limits {
            memory_bytes: 64 << 20,
            memory_reservation_bytes: 32 << 20,
            memory_swap_bytes: -1,
            memory_swappiness: Some(0),
            oom_kill_disable: true,
            cpu_shares: 512,
            cpu_quota_us: -1,
            cpu_period_us: 50_000,
            cpu_realtime_runtime_us: 900,
            cpu_realtime_period_us: 1000,
            cpuset_cpus: "0-1".to_owned(),
            cpuset_mems: "0".to_owned(),
            pids: 77,
            blkio_weight: 300,
            blkio_devices: vec![BlkioLimit {
                kind: BlkioKind::WriteOperations,
                major: 254,
                minor: 1,
                value: 9,
            }],
            hugepages: vec![("2MB".to_owned(), 4 << 20)],
            devices: CONTAINER_RULES.to_vec(),
            unified: vec![("memory.high".to_owned(), "1M".to_owned())],
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for limits in [Limits::default(), full()] {
            assert_eq!(Limits::decode(&limits.encode()), Ok(limits));
        }
    }

    #[test]
    fn no_damage_passes_or_panics() {
        let bytes = full().encode();
        for length in 0..bytes.len() {
            assert_eq!(
                Limits::decode(&bytes[..length]),
                Err(MalformedLimits),
                "{length}"
            );
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            // Either refused or read as something else: both without a panic.
            let _ = Limits::decode(&damaged);
        }
    }
}
