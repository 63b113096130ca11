//! Accepted connections, bounded in number: what a client cannot do is use up the member's file descriptors.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::runtime::Runtime;

/// Pause after a connection could not be accepted, as when the process has no file descriptor left. The listener goes on:
/// a member that nobody reaches any more would be up and useless.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The connections that come in at a listener, at most `most` at a time.
pub(super) fn accepted(
    listener: TcpListener,
    most: usize,
) -> impl Stream<Item = io::Result<Connection>> {
    let room = Arc::new(Semaphore::new(most));
    futures::stream::unfold((listener, room), |(listener, room)| async move {
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    Runtime::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(_permit) = room.clone().try_acquire_owned() else {
                tracing::warn!(%from, "too many connections: closed");
                metrics::counter!("troika_connections_refused_total").increment(1);
                continue;
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%from, %error, "gone before it was there");
                continue;
            }
            return Some((Ok(Connection { stream, _permit }), (listener, room)));
        }
    })
}

/// A connection that gives its place back at its end.
pub(super) struct Connection {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn one_connection_too_many_is_closed_and_a_place_that_is_free_again_is_given() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = Box::pin(accepted(listener, 1));
        let _first_client = TcpStream::connect(address).await.unwrap();
        let first = connections.next().await.unwrap().unwrap();
        let mut second_client = TcpStream::connect(address).await.unwrap();
        let third = async {
            let mut byte = [0];
            assert_eq!(second_client.read(&mut byte).await.unwrap(), 0, "closed");
            drop(first);
            TcpStream::connect(address).await.unwrap()
        };
        let (accepted, _client) = futures::join!(connections.next(), third);
        accepted.unwrap().unwrap();
    }
}
