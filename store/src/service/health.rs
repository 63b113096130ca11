//! gRPC health. The empty name says "the process is up"; [`READY_SERVICE`] says "has a leader and is caught up".

use super::limits::HEALTH_PAUSE;
use crate::raft::Handle;
use crate::runtime::Runtime;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// The name under which readiness is told.
pub const READY_SERVICE: &str = "troika.v1.Rounds";

/// Keeps the health of a member told until it has ended.
pub fn report_health(handle: Handle, reporter: HealthReporter) {
    Runtime::spawn(async move {
        loop {
            let ready = if handle.status().caught_up {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            reporter.set_service_status(READY_SERVICE, ready).await;
            let ended = Runtime::timeout(HEALTH_PAUSE, handle.stopped()).await;
            if ended.is_ok() {
                break;
            }
        }
        let gone = ServingStatus::NotServing;
        reporter.set_service_status(READY_SERVICE, gone).await;
        reporter.set_service_status("", gone).await;
    });
}
