//! gRPC health. The empty name says "the process is up"; [`READY_SERVICE`] says "has a leader and is caught up".

use super::context::Context;
use super::limits::HEALTH_PAUSE;
use crate::runtime::Runtime;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// The name under which readiness is told.
pub const READY_SERVICE: &str = "troika.v1.Rounds";

/// Keeps the health of a member told until it has ended, and shows what its services hold.
pub(super) fn report_health(context: Context, reporter: HealthReporter) {
    Runtime::spawn(async move {
        let handle = context.handle();
        loop {
            context.room().watchers.show("troika_watchers");
            context.room().submissions.show("troika_submit_bytes");
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
