//! A volume as an archive, out of the engine and into it: names, owners, modes, times, links,
//! extended attributes.
//!
//! An import makes a new volume. Nobody sees it before all is in it, and what a crash left of one is
//! removed at the next start, as with any volume that was being made.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use hull_storage::tree::{self, MakeOptions};

use super::life::{check_unused_name, draw_name, finish, make, unmake};
use super::{VolumeRecord, inspect};
use crate::api::{Volume, VolumeRequest};
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;

/// Bytes of an archive that are read at once.
const INPUT_BYTES: usize = 256 << 10;

/// Writes what is in a volume as an archive. Programs that write to it go on.
pub(crate) async fn export(
    core: &Arc<Core>,
    name: &str,
    output: Box<dyn Write + Send>,
) -> Result<()> {
    let hold = core.volumes.hold(name)?;
    let (job, name) = (core.clone(), name.to_owned());
    let work = move || {
        let failed = |e: hull_storage::Error| EngineError::step("export the volume", e.kind(), e);
        let directory =
            |data: &File| tree::pack_path(data.as_fd(), b"/.", None, output).map_err(failed);
        let packed = with_contents(&job, &name, directory);
        drop(hold);
        packed
    };
    core.jobs.run(Pool::Files, work).await?
}

/// Makes a volume of an archive, plain or compressed.
pub(crate) async fn import(
    core: &Arc<Core>,
    request: VolumeRequest,
    input: Box<dyn Read + Send>,
) -> Result<Volume> {
    let turn = core.volumes.turn(&request.name).await;
    check_unused_name(&turn)?;
    let record = VolumeRecord::new(&request.spec, false);
    if record.backing().is_volatile() {
        return Err(EngineError::Unsupported(format!(
            "volume {} would live in memory only while it is used",
            request.name
        )));
    }
    let record = make(core, &turn, record, &request.spec).await?;
    let (job, name) = (core.clone(), request.name.clone());
    let work = move || with_contents(&job, &name, |data| unpack(data, input));
    match core.jobs.run(Pool::Files, work).await.and_then(|done| done) {
        Ok(()) => drop(finish(core, &turn, record).await?),
        Err(error) => {
            unmake(core, &turn).await;
            return Err(error);
        }
    }
    drop(turn);
    inspect(core, &request.name)
}

/// Works on a volume's directory with what it is made of mounted.
fn with_contents(core: &Core, name: &str, work: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    // A user of its own: two may be at it at once.
    let user = draw_name()?;
    core.volumes.acquire(name, &user)?;
    let data = core.volumes.data(name);
    let opened =
        File::open(&data).map_err(|e| EngineError::io(format!("open {}", data.display()), e));
    let done = opened.and_then(|data| work(&data));
    core.volumes.release(name, &user).and(done)
}

fn unpack(data: &File, input: Box<dyn Read + Send>) -> Result<()> {
    let failed = |e: hull_storage::Error| EngineError::step("unpack the archive", e.kind(), e);
    let input = hull_storage::decompress(input).map_err(failed)?;
    let input = BufReader::with_capacity(INPUT_BYTES, input);
    let options = MakeOptions {
        with_top: true,
        holes: true,
        ..MakeOptions::default()
    };
    tree::unpack(data.as_fd(), b"/", options, input).map_err(failed)?;
    // A name must not be durable before what it promises.
    hull_os::copy::sync_file_system(data.as_fd())
        .map_err(|e| EngineError::io("write the volume to the disk", e))
}
