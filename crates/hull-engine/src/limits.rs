//! From the resources that were asked for to what the cgroup holds.

use hull_model::spec::ContainerSpec;
use hull_os::cgroup::Hierarchies;

use crate::error::Result;

/// Limits of the container's cgroup.
pub(crate) fn of(_spec: &ContainerSpec) -> Result<hull_sandbox::Limits> {
    Ok(hull_sandbox::Limits::default())
}

/// Sentences about limits that this host cannot hold.
pub(crate) fn warnings(_cgroups: &Hierarchies, _spec: &ContainerSpec) -> Result<Vec<String>> {
    Ok(Vec::new())
}
