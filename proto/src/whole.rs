//! Requests of one message in one frame.
//!
//! tonic hands a request's body to HTTP/2 as a stream, also where it is one message that is complete from the start. Its
//! end then goes out as an empty frame of its own, mostly in a packet of its own, for which the server wakes up once more. At
//! a call per submission that is a sixth of all packets.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};

/// A connection whose requests end with their last byte where that is known.
#[derive(Clone, Debug)]
pub struct Whole<S>(pub S);

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for Whole<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> S::Future {
        self.0.call(request.map(|body| Body::new(Ahead::of(body))))
    }
}

/// A body of which what was there at once was taken ahead of time, so that its last frame is known to be the last.
struct Ahead {
    taken: [Option<Result<Frame<Bytes>, Status>>; 2],
    /// `None`: it ends after what was taken.
    rest: Option<Body>,
}

impl Ahead {
    fn of(mut body: Body) -> Self {
        // Whoever sends the body asks `rest` again, with a waker that wakes.
        let mut context = Context::from_waker(Waker::noop());
        let mut taken = [None, None];
        for place in &mut taken {
            match Pin::new(&mut body).poll_frame(&mut context) {
                Poll::Ready(Some(frame)) => *place = Some(frame),
                Poll::Ready(None) => return Self { taken, rest: None },
                Poll::Pending => break,
            }
        }
        Self {
            taken,
            rest: Some(body),
        }
    }
}

impl http_body::Body for Ahead {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(frame) = self.taken.iter_mut().find_map(Option::take) {
            return Poll::Ready(Some(frame));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.taken.iter().all(Option::is_none)
            && self
                .rest
                .as_ref()
                .is_none_or(http_body::Body::is_end_stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Frames, and the places where none is there yet.
    struct Script(VecDeque<Option<&'static str>>);

    impl http_body::Body for Script {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self.0.pop_front() {
                None => Poll::Ready(None),
                Some(None) => Poll::Pending,
                Some(Some("error")) => Poll::Ready(Some(Err(Status::internal("error")))),
                Some(Some(text)) => Poll::Ready(Some(Ok(Frame::data(Bytes::from(text))))),
            }
        }
    }

    /// What comes out, with a bar where the end was known before it was reached.
    fn read(script: &[Option<&'static str>]) -> String {
        let mut body = Ahead::of(Body::new(Script(script.iter().copied().collect())));
        let mut context = Context::from_waker(Waker::noop());
        let mut text = String::new();
        loop {
            if body.is_end_stream() {
                return text + "|";
            }
            match Pin::new(&mut body).poll_frame(&mut context) {
                Poll::Ready(None) => return text,
                Poll::Ready(Some(Ok(frame))) => {
                    text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
                }
                Poll::Ready(Some(Err(_))) => text += "!",
                Poll::Pending => text += "-",
            }
        }
    }

    #[test]
    fn the_end_of_a_whole_message_is_known_and_streams_are_as_they_were() {
        assert_eq!(read(&[]), "|");
        assert_eq!(read(&[Some("a")]), "a|");
        assert_eq!(read(&[Some("error")]), "!|");
        assert_eq!(read(&[Some("a"), Some("b")]), "ab");
        // What was pending ahead of time is asked again.
        assert_eq!(read(&[Some("a"), None, Some("b"), None]), "ab-");
        assert_eq!(read(&[None, Some("a")]), "a");
        assert_eq!(
            read(&[Some("a"), Some("b"), Some("c"), None, Some("d")]),
            "abc-d"
        );
    }
}
