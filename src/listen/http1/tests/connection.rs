//! Requests on a connection: their order, their bodies, and what ends it.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};

use super::properties::stream;
use super::service::{
    LAST, PLAIN, Script, UPGRADE, collect, exchange, read_to_end, read_until, serve, settle,
    statuses, with_client,
};
use crate::clock;
use crate::listen::http1::{After, Connection, HeadLimits, Next};

#[tokio::test]
async fn requests_one_after_the_other() {
    let (_, script) = with_client(HeadLimits::default(), async |mut io, _| {
        for _ in 0..3 {
            io.write_all(PLAIN.as_bytes()).await.expect("write");
            let answer = read_until(&mut io, "GET /plain").await;
            assert_eq!(answer, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nGET /plain");
        }
        io.write_all(LAST.as_bytes()).await.expect("write");
        let answer = read_to_end(&mut io).await;
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 9\r\n\r\n";
        assert_eq!(answer, format!("{head}GET /last"));
    })
    .await;
    assert_eq!(script.seen.take(), ["GET /plain ", "GET /plain ", "GET /plain ", "GET /last "]);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_up_to_the_bad_one() {
    let input = format!("{PLAIN}{PLAIN}GET /bad HTTP/1.1\nHost: a\r\n\r\n{PLAIN}");
    let (output, seen) = exchange(input).await;
    assert_eq!(statuses(&output), ["200", "200", "400"]);
    assert!(output.contains("connection: close"));
    assert_eq!(seen, ["GET /plain ", "GET /plain ", "bare_lf"]);
}

#[tokio::test]
async fn a_refused_head_is_told_with_its_request_line() {
    for (head, line) in [
        ("PUT /x?y HTTP/1.1\r\n\r\n", (Some("PUT"), Some("/x?y"))),
        ("PUT http://u@a/ HTTP/1.1\r\n\r\n", (Some("PUT"), None)),
        ("P(T /x HTTP/1.1\r\n\r\n", (None, None)),
    ] {
        let (_, script) = with_client(HeadLimits::default(), async |mut io, _| {
            io.write_all(head.as_bytes()).await.expect("write");
            assert_eq!(statuses(&read_to_end(&mut io).await), ["400"]);
        })
        .await;
        let refused = script.refused.take().pop().expect("a refused head");
        let found = (refused.method.as_ref(), refused.path.as_ref());
        assert_eq!((found.0.map(|m| m.as_str()), found.1.map(|p| p.as_str())), line, "{head}");
    }
}

#[tokio::test]
async fn a_half_closed_client_still_gets_its_rejection() {
    let (output, _) = with_client(HeadLimits::default(), async |mut io: DuplexStream, _| {
        io.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("write");
        io.shutdown().await.expect("shutdown");
        read_to_end(&mut io).await
    })
    .await;
    assert_eq!(statuses(&output), ["400"]);
}

#[tokio::test]
async fn limits_are_answered() {
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "y".repeat(500_000));
    let (output, seen) = exchange(head).await;
    assert_eq!((statuses(&output), seen[0].as_str()), (vec!["431"], "head_too_large"));

    let head = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(65_535));
    let (output, seen) = exchange(head).await;
    assert_eq!((statuses(&output), seen[0].as_str()), (vec!["414"], "target_too_long"));

    let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(100));
    let (output, seen) = exchange(head).await;
    assert_eq!((statuses(&output), seen[0].as_str()), (vec!["431"], "too_many_fields"));

    let head = format!(
        "GET /most HTTP/1.1\r\nHost: a\r\n{}Connection: close\r\n\r\n",
        format!("x: {}\r\n", "y".repeat(600)).repeat(98)
    );
    let (output, _) = exchange(head).await;
    assert_eq!(statuses(&output), ["200"]);
}

/// A socket that is closed with unread bytes is reset, and the answer is lost.
#[tokio::test]
async fn a_client_that_still_sends_gets_to_read_the_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let mut ours =
        TcpStream::connect(listener.local_addr().expect("address")).await.expect("connect");
    let (theirs, _) = listener.accept().await.expect("accept");
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "y".repeat(500_000));
    let client = async {
        ours.write_all(head.as_bytes()).await.expect("write");
        let mut output = String::new();
        ours.read_to_string(&mut output).await.expect("no reset");
        output
    };
    let script = Script::default();
    let (_, output) = tokio::join!(serve(theirs, "", HeadLimits::default(), &script), client);
    assert_eq!(statuses(&output), ["431"]);
}

#[tokio::test]
async fn bodies_pass() {
    let body = "b".repeat(300_000);
    let input = format!(
        "POST /l HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n{body}\
         POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         493e0;x\r\n{body}\r\n1\r\nc\r\n0\r\nt: x\r\n\r\n{LAST}"
    );
    let (_, seen) = exchange(input).await;
    assert_eq!(seen, [format!("POST /l {body}"), format!("POST /c {body}c"), "GET /last ".into()]);
}

#[tokio::test]
async fn a_broken_chunk_breaks_the_body() {
    let post = "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, reason) in [
        ("5 \r\nhello\r\n0\r\n\r\n", "bad_chunk_size"),
        ("5\r\nhello\r\n0\n\r\n", "bare_lf"),
        ("5\r\nhelloworld\r\n0\r\n\r\n", "bad_chunk_end"),
        ("5\r\nhello\r\n0\r\nx : y\r\n\r\n", "space_before_colon"),
    ] {
        let (output, seen) = exchange(format!("{post}{body}{PLAIN}")).await;
        assert_eq!(statuses(&output), ["400"], "{body}");
        assert_eq!(seen, [format!("POST /c broken: {reason}")]);
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_a_body_breaks_it() {
    for head in ["Content-Length: 5\r\n\r\nhe", "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n"] {
        let (output, script) = with_client(HeadLimits::default(), async |mut io, _| {
            let post = format!("POST /c HTTP/1.1\r\nHost: a\r\n{head}");
            io.write_all(post.as_bytes()).await.expect("write");
            io.shutdown().await.expect("shutdown");
            read_to_end(&mut io).await
        })
        .await;
        assert_eq!(statuses(&output), ["400"]);
        assert_eq!(script.seen.take(), ["POST /c broken: none"]);
    }
}

#[tokio::test]
async fn a_body_that_nobody_reads_does_not_cost_the_answer() {
    let head = "POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n";
    let (output, _) = exchange(format!("{head}{}", "b".repeat(500_000))).await;
    assert_eq!(statuses(&output), ["200"]);
}

#[tokio::test]
async fn an_unread_body_that_is_here_does_not_end_the_connection() {
    let head = "POST /unread HTTP/1.1\r\nHost: a\r\n";
    for body in
        ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"]
    {
        let (output, _) = exchange(format!("{head}{body}{LAST}")).await;
        assert_eq!(statuses(&output), ["200", "200"], "{body}");
    }
    // What comes behind half of it cannot be told from the rest of it.
    let (output, seen) = exchange(format!("{head}Content-Length: 500\r\n\r\n{LAST}")).await;
    assert_eq!((statuses(&output), seen), (vec!["200"], vec![]));
}

#[tokio::test]
async fn a_body_may_outlive_its_answer() {
    let (_, script) = with_client(HeadLimits::default(), async |mut io, script| {
        let post = "POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe";
        for _ in 0..2 {
            io.write_all(post.as_bytes()).await.expect("write");
            read_until(&mut io, "POST /early").await;
            settle().await;
            io.write_all(format!("llo{PLAIN}").as_bytes()).await.expect("write");
            read_until(&mut io, "GET /plain").await;
        }
        // The client leaves in the middle of it.
        io.write_all(post.as_bytes()).await.expect("write");
        read_until(&mut io, "POST /early").await;
        io.shutdown().await.expect("shutdown");
        assert_eq!(read_to_end(&mut io).await, "");
        assert_eq!(script.begun.borrow().len(), 5);
    })
    .await;
    assert_eq!(script.seen.take(), ["GET /plain "; 2]);
}

#[tokio::test(flavor = "local")]
async fn who_reads_a_body_is_told_when_the_connection_ends() {
    let (mut ours, theirs) = duplex(1024);
    let limits = HeadLimits::default();
    let mut http = Connection::<Full<Bytes>, _>::new(theirs, Bytes::new(), limits, clock::now());
    let post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe";
    ours.write_all(post).await.expect("write");
    let Next::Request(request) = poll_fn(|cx| http.poll_next(cx)).await else { panic!() };
    let reads = tokio::task::spawn_local(collect(request.into_body()));
    settle().await;
    assert!(!reads.is_finished());
    drop(http);
    reads.await.expect("a task").expect_err("not all of it came");
    assert_eq!(read_to_end(&mut ours).await, "", "the socket is closed");
}

#[tokio::test]
async fn a_head_may_come_byte_by_byte_and_begin_before_the_server() {
    for split in 0..=LAST.len() {
        let script = Script::default();
        let (mut ours, theirs) = duplex(1024);
        let client = async {
            for byte in LAST[split..].bytes() {
                ours.write_u8(byte).await.expect("write");
                tokio::task::yield_now().await;
            }
            read_to_end(&mut ours).await
        };
        let server = serve(theirs, &LAST[..split], HeadLimits::default(), &script);
        let ((), output) = tokio::join!(server, client);
        assert!(output.ends_with("GET /last"), "{output}");
    }
}

/// Whether the story of `/never` is dropped when the client ends its side behind these bytes.
async fn is_gone(behind: &str) -> bool {
    let (ours, theirs) = duplex(1 << 20);
    let script = Script::default();
    let ended = Cell::new(false);
    let server = async {
        serve(theirs, "", HeadLimits::default(), &script).await;
        ended.set(true);
    };
    let client = async {
        let mut io = ours;
        let head = PLAIN.replace("/plain", "/never");
        io.write_all(format!("{head}{behind}").as_bytes()).await.expect("write");
        settle().await;
        assert_eq!(script.begun.borrow().len(), 1);
        assert!(!ended.get());
        io.shutdown().await.expect("shutdown");
        settle().await;
        ended.get()
    };
    tokio::select! {
        biased;
        gone = client => gone,
        () = async { tokio::join!(server, std::future::pending::<()>()); } => false,
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request() {
    assert!(is_gone("").await);
    // These are no requests, or not yet.
    assert!(is_gone("\r\n").await);
    assert!(is_gone("GET /next HTTP/1.1\r\nHos").await);
    // It has said that it wants more than this answer; and the end is behind what is not read yet.
    assert!(!is_gone(PLAIN).await);
    assert!(!is_gone("GET \n").await);
}

#[tokio::test]
async fn an_accepted_upgrade_passes_everything() {
    let (output, _) = with_client(HeadLimits::default(), async |mut io: DuplexStream, _| {
        // The first bytes come together with the request, the others after the answer.
        io.write_all(format!("{UPGRADE}\x01\n").as_bytes()).await.expect("write");
        let mut output = read_until(&mut io, "\x01\n").await;
        io.write_all(b"GET \n\0").await.expect("write");
        output += &read_until(&mut io, "GET \n\0").await;
        output
    })
    .await;
    assert_eq!(output, "HTTP/1.1 101 Switching Protocols\r\n\r\n\x01\nGET \n\0");
}

#[tokio::test]
async fn a_refused_upgrade_is_followed_by_a_head() {
    let upgrade = UPGRADE.replace("/upgrade", "/plain");
    let (output, seen) = exchange(format!("{PLAIN}{upgrade}{LAST}")).await;
    assert_eq!(statuses(&output), ["200", "200", "200"]);
    assert_eq!(seen, ["GET /plain ", "GET /plain ", "GET /last "]);
    let (_, seen) = exchange(format!("{upgrade}\x01\x02")).await;
    assert_eq!(seen, ["GET /plain ", "bad_method"]);
}

#[tokio::test]
async fn what_waits_for_an_upgrade_has_a_bound() {
    let (mut io, theirs) = duplex(64 << 10);
    let script = Script::default();
    let client = async {
        let head = UPGRADE.replace("/upgrade", "/never");
        io.write_all(head.as_bytes()).await.expect("write");
        let mut held = 0;
        loop {
            settle().await;
            let polled = poll_fn(|cx| {
                let write = std::pin::pin!(io.write(&[0; 4096]));
                Poll::Ready(write.poll(cx))
            });
            match polled.await {
                Poll::Ready(written) => held += written.expect("write"),
                Poll::Pending => return held,
            }
        }
    };
    let held = tokio::select! {
        () = serve(theirs, "", HeadLimits::default(), &script) => panic!("it waits"),
        held = client => held,
    };
    // 64 KiB in the server, as many in the pipe, and what one read may have beyond.
    assert!((128 << 10..160 << 10).contains(&held), "{held}");
}

#[tokio::test]
async fn interim_answers_come_before_the_answer() {
    let hint = PLAIN.replace("/plain", "/hint");
    let (output, _) = exchange(format!("{PLAIN}{hint}{LAST}")).await;
    assert_eq!(statuses(&output), ["200", "103", "200", "200"]);
    assert!(output.contains("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_body_is_asked_for_once_somebody_reads_it() {
    const PROCEED: &str = "HTTP/1.1 100 Continue\r\n\r\n";
    let post = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
    };
    with_client(HeadLimits::default(), async |mut io, _| {
        for _ in 0..2 {
            io.write_all(post("/p").as_bytes()).await.expect("write");
            assert_eq!(read_until(&mut io, "\r\n\r\n").await, PROCEED);
            io.write_all(b"hello").await.expect("write");
            assert_eq!(statuses(&read_until(&mut io, "POST /p").await), ["200"]);
        }
        // Whoever does not wait is told as well.
        io.write_all(format!("{}hello", post("/p")).as_bytes()).await.expect("write");
        assert_eq!(statuses(&read_until(&mut io, "POST /p").await), ["100", "200"]);
        // Nobody reads it, and nothing tells whether it will come.
        io.write_all(post("/unread").as_bytes()).await.expect("write");
        assert_eq!(statuses(&read_to_end(&mut io).await), ["200"]);
    })
    .await;
    // The answer came first.
    let early = post("/early");
    with_client(HeadLimits::default(), async |mut io, _| {
        io.write_all(early.as_bytes()).await.expect("write");
        assert_eq!(statuses(&read_until(&mut io, "POST /early").await), ["200"]);
        settle().await;
        io.write_all(format!("hello{LAST}").as_bytes()).await.expect("write");
        assert_eq!(statuses(&read_to_end(&mut io).await), ["200"]);
    })
    .await;
    // It has none, or its version knows no such thing.
    let none = post("/p").replace("Content-Length: 5", "x: y");
    let old = post("/p").replace("HTTP/1.1", "HTTP/1.0");
    let (output, _) = exchange(format!("{none}{old}hello")).await;
    assert!(!output.contains("100 Continue"), "{output}");
}

/// What was used for a long message is not kept.
#[tokio::test(flavor = "local")]
async fn a_connection_that_waits_is_small() {
    let (mut ours, theirs) = duplex(1 << 20);
    let limits = HeadLimits::default();
    let mut http = Connection::<Full<Bytes>, _>::new(theirs, Bytes::new(), limits, clock::now());
    for _ in 0..2 {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n";
        ours.write_all(head.as_bytes()).await.expect("write");
        ours.write_all(&[b'x'; 300_000]).await.expect("write");
        let Next::Request(request) = poll_fn(|cx| http.poll_next(cx)).await else { panic!() };
        collect(request.into_body()).await.expect("a body");
        http.answer(Response::new(Full::from(vec![0; 100_000])), false);
        assert_eq!(poll_fn(|cx| http.poll_answer(cx)).await, After::Next);
        let kept = http.shared().inner.borrow().read.capacity();
        assert!(kept <= 8 << 10, "{kept}");
        let mut answer = vec![0; 100_000];
        ours.read_exact(&mut answer).await.expect("an answer");
        ours.read_u8().await.expect("its end");
        while let Poll::Ready(read) = poll_fn(|cx| {
            let read = std::pin::pin!(ours.read(&mut answer));
            Poll::Ready(read.poll(cx))
        })
        .await
        {
            read.expect("the rest");
        }
    }
}

/// All requests of a stream in pieces, and all that is answered.
async fn serve_stream(stream: &[u8], piece: usize) -> (Vec<String>, String) {
    let (ours, theirs) = duplex(1 << 16);
    let script = Script::default();
    let (mut from_server, mut to_server) = tokio::io::split(ours);
    let send = async {
        for piece in stream.chunks(piece) {
            // It fails once the server has closed.
            let _ = to_server.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        // Long after the server has had enough, but for a body that nobody ends.
        tokio::time::sleep(Duration::from_secs(1000)).await;
        let _ = to_server.shutdown().await;
    };
    let mut answers = String::new();
    let receive = from_server.read_to_string(&mut answers);
    let ((), (), _) =
        tokio::join!(serve(theirs, "", HeadLimits::default(), &script), send, receive);
    (script.seen.take(), answers)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// A stream means the same however it comes, and nothing is handled after what is refused.
    #[test]
    fn requests_do_not_depend_on_how_they_come(stream in stream(3), piece in 1..200_usize) {
        let run = |piece| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("runtime");
            runtime.block_on(serve_stream(&stream, piece))
        };
        let whole = run(usize::MAX);
        prop_assert_eq!(run(piece), whole.clone(), "{}", stream.escape_ascii());
        let (seen, answers) = whole;
        let is_bad = |line: &String| !line.contains(' ') || line.contains(" broken: ");
        let bad = seen.iter().position(is_bad);
        prop_assert!(bad.is_none_or(|bad| bad + 1 == seen.len()), "{:?}", seen);
        let finals = answers.matches("HTTP/1.").count() - answers.matches(" 100 Continue").count();
        prop_assert!(finals >= seen.len(), "{:?} {}", seen, answers);
    }
}
