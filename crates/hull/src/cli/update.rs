//! `hull update`.

use std::cell::RefCell;

use serde_json::{Map, Value as Json};

use super::Command;
use super::arguments::{parse_int, parse_uint16};
use super::container::{parse, port};
use super::failure::Failure;
use super::names::{self, Missing};
use super::session::{Session, print_line};
use super::units::ram_in_bytes;

/// `hull update`.
#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    /// Block IO (relative weight), between 10 and 1000, or 0 to disable
    #[arg(long, value_name = "uint16", value_parser = parse_uint16)]
    blkio_weight: Option<u16>,
    /// Limit CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "int", value_parser = parse_int)]
    cpu_period: Option<i64>,
    /// Limit CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "int", value_parser = parse_int)]
    cpu_quota: Option<i64>,
    /// Limit the CPU real-time period in microseconds
    #[arg(long, value_name = "int", value_parser = parse_int)]
    cpu_rt_period: Option<i64>,
    /// Limit the CPU real-time runtime in microseconds
    #[arg(long, value_name = "int", value_parser = parse_int)]
    cpu_rt_runtime: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(long, short, value_name = "int", value_parser = parse_int)]
    cpu_shares: Option<i64>,
    /// Number of CPUs
    #[arg(long, value_name = "decimal", value_parser = parse::cpus)]
    cpus: Option<i64>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_mems: Option<String>,
    /// Memory limit
    #[arg(long, short, value_name = "bytes", value_parser = ram_in_bytes)]
    memory: Option<i64>,
    /// Memory soft limit
    #[arg(long, value_name = "bytes", value_parser = ram_in_bytes)]
    memory_reservation: Option<i64>,
    /// Swap limit equal to memory plus swap: -1 to enable unlimited swap
    #[arg(long, value_name = "bytes", value_parser = parse::memory_swap)]
    memory_swap: Option<i64>,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pids_limit: Option<i64>,
    /// Restart policy to apply when a container exits
    #[arg(long, value_name = "string")]
    restart: Option<String>,
    /// Publish a container's port(s) to the host, also while it runs
    #[arg(long, value_name = "list")]
    publish_add: Vec<String>,
    /// No longer publish a container's port(s), also while it runs
    #[arg(long, value_name = "list")]
    publish_rm: Vec<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Command for Update {
    const USAGE: &str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ABOUT: &str = "Update configuration of one or more containers";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (body, ports) = (self.body()?, self.ports()?);
        if body.is_empty() && ports.is_none() {
            return Err(Failure::new(
                "you must provide one or more flags when using this command",
            ));
        }
        let client = session.client().await?;
        // Told when all are done.
        let warnings = RefCell::new(Vec::new());
        let update = async |name: String| {
            if let Some(ports) = &ports {
                let call = client
                    .post(format!("/hull/containers/{name}/publish"))
                    .json(ports)?;
                call.done().await?;
            }
            if body.is_empty() {
                return Ok(());
            }
            let call = client
                .post(format!("/containers/{name}/update"))
                .json(&body)?;
            let answer: super::value::Value = call.receive().await?;
            let told = answer.items(&["Warnings"]).iter();
            let told = told.filter_map(|warning| Some(warning.as_str()?.to_owned()));
            warnings.borrow_mut().extend(told);
            Ok(())
        };
        let updated = names::each(&self.containers, Missing::Fails, update).await;
        for warning in warnings.into_inner() {
            print_line(&warning)?;
        }
        updated
    }
}

impl Update {
    /// What is to be published and no longer published; none: nothing was given.
    fn ports(&self) -> Result<Option<Json>, Failure> {
        let read = |list: &[String]| {
            let mut bindings = port::PortBindings::new();
            for text in list {
                port::publish(text, &mut bindings).map_err(Failure::new)?;
            }
            serde_json::to_value(bindings).map_err(|error| Failure::new(error.to_string()))
        };
        if self.publish_add.is_empty() && self.publish_rm.is_empty() {
            return Ok(None);
        }
        let (add, remove) = (read(&self.publish_add)?, read(&self.publish_rm)?);
        Ok(Some(serde_json::json!({"Add": add, "Remove": remove})))
    }

    /// Only what was given: a limit that is left out stays as it is.
    fn body(&self) -> Result<Map<String, Json>, Failure> {
        let number = |value: Option<i64>| value.map(Json::from);
        let text = |value: &Option<String>| value.clone().map(Json::from);
        let policy = self
            .restart
            .as_ref()
            .map(|text| parse::restart_policy(text))
            .transpose()?;
        let members = [
            ("BlkioWeight", self.blkio_weight.map(Json::from)),
            ("CpuPeriod", number(self.cpu_period)),
            ("CpuQuota", number(self.cpu_quota)),
            ("CpuRealtimePeriod", number(self.cpu_rt_period)),
            ("CpuRealtimeRuntime", number(self.cpu_rt_runtime)),
            ("CpuShares", number(self.cpu_shares)),
            ("NanoCpus", number(self.cpus)),
            ("CpusetCpus", text(&self.cpuset_cpus)),
            ("CpusetMems", text(&self.cpuset_mems)),
            ("Memory", number(self.memory)),
            ("MemoryReservation", number(self.memory_reservation)),
            ("MemorySwap", number(self.memory_swap)),
            ("PidsLimit", number(self.pids_limit)),
            (
                "RestartPolicy",
                policy.and_then(|policy| serde_json::to_value(policy).ok()),
            ),
        ];
        Ok(members
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect())
    }
}
