//! Waiting for the runtime on a thread that may block.
//!
//! Execution is synchronous and reads state as it goes, so a blocking thread sometimes has to wait for the store. It must
//! not drive the future itself (`Handle::block_on`): blocking threads outlive the tasks that they work for, and timers and
//! sockets of a runtime that is ending panic when they are polled. So the future runs as a task of the runtime, and the
//! thread waits for its answer; a runtime that ends drops the task, and the thread hears of it.

use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Runs `future` on the runtime and waits for it; `None` where the runtime ends first.
///
/// # Panics
/// On a thread that drives tasks: those must await instead.
pub fn wait_for<R: Send + 'static>(
    runtime: &Handle,
    future: impl Future<Output = R> + Send + 'static,
) -> Option<R> {
    let (answer, answered) = oneshot::channel();
    runtime.spawn(async move {
        // Nobody is left to hear it where the thread has panicked.
        answer.send(future.await).ok();
    });
    answered.blocking_recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;
    use tokio::time::sleep;

    fn runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    }

    #[test]
    fn a_thread_that_outlives_its_runtime_hears_of_the_end_and_does_not_panic() {
        let runtime = runtime();
        let handle = runtime.handle().clone();
        let (started, has_started) = mpsc::channel();
        let (heard, hears) = mpsc::channel();
        runtime.spawn_blocking(move || {
            started.send(()).unwrap();
            // A read of a store that does not answer: its timer is what panicked.
            let during = wait_for(&handle, sleep(Duration::from_secs(3_600)));
            let after = wait_for(&handle, sleep(Duration::from_millis(1)));
            heard.send((during, after)).unwrap();
        });
        has_started.recv().unwrap();
        drop(runtime);
        assert_eq!(hears.recv().unwrap(), (None, None));
    }

    #[test]
    fn an_answer_comes_back() {
        let runtime = runtime();
        let answer = wait_for(runtime.handle(), async {
            sleep(Duration::from_millis(1)).await;
            7
        });
        assert_eq!(answer, Some(7));
    }
}
