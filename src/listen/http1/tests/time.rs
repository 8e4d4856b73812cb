//! How long a client may take, and when its connection is idle. Time is paused.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::service::{LAST, PLAIN, read_to_end, read_until, settle, statuses, with_client};
use crate::clock::now;
use crate::listen::http1::HeadLimits;

/// A client that sends `input`, and says how long the server takes to close, and what it sends.
async fn time_to_close(input: &str) -> (Duration, String, Vec<String>) {
    let limits = HeadLimits {
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
        ..HeadLimits::default()
    };
    let begin = now();
    let (output, script) = with_client(limits, async |mut io, _| {
        io.write_all(input.as_bytes()).await.expect("write");
        read_to_end(&mut io).await
    })
    .await;
    (now() - begin, output, script.seen.take())
}

#[track_caller]
fn assert_about(found: Duration, seconds: u64) {
    let wanted = Duration::from_secs(seconds);
    assert!(found >= wanted && found < wanted + Duration::from_secs(2), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_head_times_out() {
    let (took, output, seen) = time_to_close("GET /x HTTP/1.1\r\nHo").await;
    assert_about(took, 10);
    assert_eq!(statuses(&output), ["408"]);
    assert_eq!(seen, ["header_timeout"]);
    // Behind a request, too.
    let (took, output, _) = time_to_close(&format!("{PLAIN}GET /x HTTP/1.1\r\nHo")).await;
    assert_about(took, 10);
    assert_eq!(statuses(&output), ["200", "408"]);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_trickles_has_the_same_time() {
    let begin = now();
    let (output, _) = with_client(HeadLimits::default(), async |mut io, _| {
        for byte in PLAIN.bytes().take(9) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            io.write_u8(byte).await.expect("write");
        }
        read_to_end(&mut io).await
    })
    .await;
    assert_eq!(statuses(&output), ["408"]);
    assert_about(now() - begin, 10);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_later_head_begins_with_its_first_byte() {
    let begin = now();
    let (output, _) = with_client(HeadLimits::default(), async |mut io, _| {
        io.write_all(PLAIN.as_bytes()).await.expect("write");
        read_until(&mut io, "GET /plain").await;
        tokio::time::sleep(Duration::from_secs(50)).await;
        io.write_all(b"GET ").await.expect("write");
        read_to_end(&mut io).await
    })
    .await;
    assert_eq!(statuses(&output), ["408"]);
    assert_about(now() - begin, 50 + 10);
}

/// Heads in halves, the next one begun with each: none has the time of the one before.
#[tokio::test(start_paused = true)]
async fn each_head_has_its_own_time() {
    let (output, _) = with_client(HeadLimits::default(), async |mut io, _| {
        let (begin, end) = PLAIN.split_at(9);
        io.write_all(begin.as_bytes()).await.expect("write");
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(6)).await;
            io.write_all(format!("{end}{begin}").as_bytes()).await.expect("write");
        }
        let begin = now();
        let output = read_to_end(&mut io).await;
        assert_about(now() - begin, 10);
        output
    })
    .await;
    assert_eq!(statuses(&output), ["200", "200", "200", "200", "200", "408"]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_line_that_came_in_pieces_takes_no_time_of_the_next_head() {
    let begin = now();
    let (output, _) = with_client(HeadLimits::default(), async |mut io, _| {
        io.write_all(PLAIN.as_bytes()).await.expect("write");
        read_until(&mut io, "GET /plain").await;
        for (piece, seconds) in [("\r", 5), ("\n", 8), ("GET /", 0)] {
            io.write_all(piece.as_bytes()).await.expect("write");
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
        read_to_end(&mut io).await
    })
    .await;
    assert_about(now() - begin, 5 + 8 + 10);
    assert_eq!(statuses(&output), ["408"]);
}

#[tokio::test(start_paused = true)]
async fn silent_connections_are_closed_without_an_answer() {
    let (took, output, _) = time_to_close("").await;
    assert_about(took, 10);
    assert_eq!(output, "");
    let (took, output, _) = time_to_close(PLAIN).await;
    assert_about(took, 60);
    assert_eq!(statuses(&output), ["200"]);
    // Empty lines are not a head.
    let (took, output, _) = time_to_close(&format!("{PLAIN}\r\n")).await;
    assert_about(took, 60);
    assert_eq!(statuses(&output), ["200"]);
}

#[tokio::test(start_paused = true)]
async fn the_idle_time_begins_with_the_last_answer() {
    let limits = HeadLimits { idle_timeout: Duration::from_secs(60), ..HeadLimits::default() };
    let begin = now();
    with_client(limits, async |mut io, _| {
        for _ in 0..3 {
            io.write_all(PLAIN.as_bytes()).await.expect("write");
            read_until(&mut io, "GET /plain").await;
            tokio::time::sleep(Duration::from_secs(50)).await;
        }
        read_to_end(&mut io).await
    })
    .await;
    assert_about(now() - begin, 100 + 60);
}

#[tokio::test(start_paused = true)]
async fn a_request_in_progress_is_not_idle() {
    let limits = HeadLimits {
        header_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(1),
        ..HeadLimits::default()
    };
    let begin = now();
    let (output, _) = with_client(limits, async |mut io, _| {
        io.write_all(LAST.replace("/last", "/slow").as_bytes()).await.expect("write");
        read_to_end(&mut io).await
    })
    .await;
    assert_eq!(statuses(&output), ["200"]);
    assert_about(now() - begin, 30);
    // Nor the rest of a request behind its answer.
    let begin = now();
    with_client(limits, async |mut io, _| {
        let post = "POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
        io.write_all(post.as_bytes()).await.expect("write");
        read_until(&mut io, "POST /early").await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        io.write_all(b"hello").await.expect("write");
        read_to_end(&mut io).await
    })
    .await;
    assert_about(now() - begin, 30 + 1);
}

#[tokio::test(start_paused = true)]
async fn parking_is_proposed_when_nothing_was_in_progress_for_long() {
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    let limits = HeadLimits { idle_timeout: minute, park_after: second, ..HeadLimits::default() };
    with_client(limits, async |mut io, script| {
        let proposed = || script.parking.borrow_mut().drain(..).next();
        // Not before the first request, which has the time of a head.
        tokio::time::sleep(2 * second).await;
        assert_eq!(proposed(), None);

        for _ in 0..2 {
            io.write_all(PLAIN.as_bytes()).await.expect("write");
            read_until(&mut io, "GET /plain").await;
            let answered = now();
            tokio::time::sleep(second * 9 / 10).await;
            assert_eq!(proposed(), None);
            tokio::time::sleep(second / 5).await;
            let (_, until) = proposed().expect("a proposal");
            assert_about(until - answered, 60);
            assert_eq!(proposed(), None);
        }

        // A head has begun, before or after the time to look.
        io.write_all(b"GET /plain HTTP/1.1\r\n").await.expect("write");
        tokio::time::sleep(2 * second).await;
        assert_eq!(proposed(), None);
        io.write_all(b"Host: a\r\n\r\n").await.expect("write");
        read_until(&mut io, "GET /plain").await;
        tokio::time::sleep(minute / 2).await;
        assert!(proposed().is_some());
        io.write_all(b"GET /plain HTTP/1.1\r\n").await.expect("write");
        settle().await;
        tokio::time::sleep(2 * second).await;
        assert_eq!(proposed(), None);

        // A long request is none of that time.
        let slow = PLAIN.replace("/plain", "/slow");
        io.write_all(format!("Host: a\r\n\r\n{slow}").as_bytes()).await.expect("write");
        read_until(&mut io, "GET /plain").await;
        tokio::time::sleep(minute / 2 - second).await;
        assert_eq!(proposed(), None);
        read_until(&mut io, "GET /slow").await;
        let answered = now();
        tokio::time::sleep(second * 9 / 10).await;
        assert_eq!(proposed(), None);
        tokio::time::sleep(second).await;
        assert_about(proposed().expect("a proposal").1 - answered, 60);
    })
    .await;
}
