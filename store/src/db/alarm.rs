//! The first write that failed stops the member: this is how the news travels.

use std::sync::Arc;

use tokio::sync::watch;

use super::error::DbError;

/// Raised once, for good. Clones share it.
#[derive(Clone, Debug)]
pub struct Alarm(Arc<watch::Sender<Option<DbError>>>);

impl Default for Alarm {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Alarm {
    /// Raises it; the first error stays.
    pub fn raise(&self, error: &DbError) {
        self.0.send_if_modified(|raised| {
            let first = raised.is_none();
            if first {
                tracing::error!(%error, "a write failed: this member must stop");
                *raised = Some(error.clone());
            }
            first
        });
    }

    /// The error, if it was raised.
    pub fn raised(&self) -> Option<DbError> {
        self.0.borrow().clone()
    }

    /// Waits until it is raised.
    pub async fn wait(&self) -> DbError {
        let mut receiver = self.0.subscribe();
        let raised = receiver.wait_for(Option::is_some).await;
        match raised {
            Ok(error) => error.clone().expect("waited for it"),
            // This value holds the sender, so it outlives the wait.
            Err(_) => unreachable!("the sender is alive"),
        }
    }
}
