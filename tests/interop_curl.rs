//! curl through the proxy, in both directions. Where it is absent its tests say so and pass.

mod support;

use Way::{Connect, Host, Inbound, Mesh};
use support::counterpart::{self, Reader, Server, Tool, have, output};
use support::town::{Town, Way};
use tokio::process::Command;

/// curl as it goes that way, and the URL of the app.
fn curl_by(town: &Town, way: Way) -> (Command, String) {
    let mut curl = counterpart::curl();
    let entrance = town.entrance(way);
    let base = match way {
        Way::Inbound => format!("http://{entrance}"),
        // curl resolves *.localhost by itself.
        Way::Host => format!("http://app.localhost:{}", entrance.port()),
        Way::Mesh => {
            curl.args(["-H", "Host: mesh"]);
            format!("http://{entrance}")
        }
        Way::Proxy => {
            curl.env("http_proxy", format!("http://{entrance}"));
            "http://app".to_owned()
        }
        Way::Connect => {
            curl.args(["-p", "-x", &format!("http://{entrance}")]);
            "http://app:80".to_owned()
        }
    };
    (curl, base)
}

async fn curl_app() -> Option<(Server, Town)> {
    if !have(&[Tool::Curl, Tool::Python]).await {
        return None;
    }
    let server = Server::python("app.py", &[]).await;
    let town = Town::around(&[&server]).await;
    Some((server, town))
}

const WAYS: [Way; 5] = [Inbound, Host, Mesh, Way::Proxy, Connect];

/// What `/echo` says that it got.
fn seen(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn header<'a>(seen: &'a serde_json::Value, name: &str) -> Option<&'a str> {
    let fields = seen["headers"].as_array()?;
    let field = fields
        .iter()
        .find(|field| field[0].as_str().is_some_and(|own| own.eq_ignore_ascii_case(name)))?;
    field[1].as_str()
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_http_1_1() {
    let Some((_app, town)) = curl_app().await else {
        return;
    };
    for way in WAYS {
        let (mut curl, base) = curl_by(&town, way);
        // Twice over one connection; the tunnel's own head is not shown.
        curl.args(["-i", "--suppress-connect-headers", "-d", "a=1"])
            .args(["-w", "\n%{http_version} %{num_connects}\n"])
            .args([format!("{base}/echo?q=1"), format!("{base}/echo?q=1")]);
        let text = output(&mut curl).await;
        let answers: Vec<&str> = text.split("HTTP/1.1 200 OK\r\n").skip(1).collect();
        assert_eq!(answers.len(), 2, "{way}: {text}");
        for (answer, connects) in answers.iter().zip(["1", "0"]) {
            assert!(answer.contains("\r\nX-CaSe: Kept\r\n"), "{way}: {answer}");
            let (_, rest) = answer.split_once("\r\n\r\n").expect("a body");
            let (body, stated) = rest.split_once('\n').expect("what curl says");
            assert_eq!(stated.trim_end(), format!("1.1 {connects}"), "{way}");
            let seen = seen(body);
            assert_eq!(seen["method"], "POST", "{way}");
            assert_eq!(seen["path"], "/echo?q=1", "{way}");
            assert_eq!(seen["length"], 3, "{way}");
            if way != Connect {
                assert!(header(&seen, "traceparent").is_some(), "{way}: {seen}");
            }
        }
        let (mut head, base) = curl_by(&town, way);
        head.args(["-I", "-o", "/dev/null", "-w", "%{http_code}", &format!("{base}/echo")]);
        assert_eq!(output(&mut head).await, "200", "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_http_1_0() {
    let Some((_app, town)) = curl_app().await else {
        return;
    };
    for way in WAYS {
        let (mut curl, base) = curl_by(&town, way);
        curl.args(["-0", "-d", "abc", &format!("{base}/echo")]);
        let seen = seen(&output(&mut curl).await);
        assert_eq!(seen["length"], 3, "{way}");
        // In chunks from the app, which HTTP/1.0 does not have.
        for path in ["/mirror", "/until-close"] {
            let (mut curl, base) = curl_by(&town, way);
            if way == Connect && path == "/mirror" {
                // Nobody between curl and an app that sends chunks to everybody.
                continue;
            }
            curl.args(["-0", "-i", "--suppress-connect-headers"]).args([
                "-d",
                "all of it",
                &format!("{base}{path}"),
            ]);
            let text = output(&mut curl).await;
            let (head, body) = text.split_once("\r\n\r\n").expect("a head");
            assert_eq!(body, "all of it", "{way} {path}: {head}");
            assert!(!head.to_ascii_lowercase().contains("chunked"), "{way} {path}: {head}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_http_2_by_prior_knowledge() {
    let Some((_app, town)) = curl_app().await else {
        return;
    };
    // A tunnel leads to the app itself, which speaks HTTP/1.1.
    for way in [Inbound, Host, Mesh] {
        let (mut curl, base) = curl_by(&town, way);
        curl.args(["--http2-prior-knowledge", "-d", "abc"])
            .args(["-H", "Cookie: a=1; b=2", "-w", "\n%{http_version}"])
            .arg(format!("{base}/echo"));
        let text = output(&mut curl).await;
        let (body, version) = text.split_once('\n').expect("a version");
        assert_eq!(version, "2", "{way}");
        let seen = seen(body);
        assert_eq!(seen["version"], "HTTP/1.1", "{way}");
        assert_eq!(seen["length"], 3, "{way}");
        assert_eq!(header(&seen, "cookie"), Some("a=1; b=2"), "{way}");
        assert_eq!(header(&seen, "connection"), None, "{way}: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_to_an_app_that_speaks_http_2() {
    if !have(&[Tool::Curl, Tool::Node]).await {
        return;
    }
    let server = Server::node("app.mjs", &["http2"]).await;
    let town = Town::speaking("http2", &[&server]).await;
    for way in [Inbound, Host, Mesh, Way::Proxy] {
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            if way == Way::Proxy && version != "--http1.1" {
                // curl does not speak HTTP/2 to a forward proxy without TLS.
                continue;
            }
            let (mut curl, base) = curl_by(&town, way);
            curl.args([version, "-d", "abc", &format!("{base}/echo")]);
            let seen = seen(&output(&mut curl).await);
            assert_eq!(seen["version"], "HTTP/2.0", "{way} {version}");
            assert_eq!(seen["length"], 3, "{way} {version}");
            let (mut curl, base) = curl_by(&town, way);
            curl.args([version, "-i", "-H", "TE: trailers"]).arg(format!("{base}/trailers"));
            let text = output(&mut curl).await;
            let (_, rest) = text.split_once("\r\n\r\n").expect("a head");
            assert!(rest.contains("body"), "{way} {version}: {text}");
            assert!(rest.contains("x-checksum: abc"), "{way} {version}: {text}");
        }
    }
    let (mut tunnelled, base) = curl_by(&town, Connect);
    tunnelled.args(["--http2-prior-knowledge", "-d", "abc", &format!("{base}/echo")]);
    assert_eq!(seen(&output(&mut tunnelled).await)["version"], "HTTP/2.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_offers_h2c() {
    let Some((_app, town)) = curl_app().await else {
        return;
    };
    for way in [Inbound, Host, Mesh, Way::Proxy] {
        let (mut curl, base) = curl_by(&town, way);
        curl.args(["--http2", "-w", "\n%{http_version}"]).arg(format!("{base}/echo"));
        let text = output(&mut curl).await;
        let (body, version) = text.split_once('\n').expect("a version");
        assert_eq!(version, "1.1", "{way}: the offer is not taken");
        let seen = seen(body);
        assert_eq!(header(&seen, "upgrade"), None, "{way}");
        assert_eq!(header(&seen, "http2-settings"), None, "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_expects_100_continue() {
    let Some((_app, town)) = curl_app().await else {
        return;
    };
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), vec![b'x'; 300_000]).expect("a file");
    let upload = format!("@{}", file.path().display());
    for way in WAYS {
        let send = |path: &str| {
            let (mut curl, base) = curl_by(&town, way);
            curl.args(["-v", "-H", "Expect: 100-continue"])
                // Longer than the test: a body must not be sent because curl is tired of waiting.
                .args(["--expect100-timeout", "60", "--stderr", "-"])
                .args(["--data-binary", &upload])
                .args(["-w", "\nsent %{size_upload} got %{http_code}\n"])
                .arg(format!("{base}{path}"));
            curl
        };
        let taken = output(&mut send("/echo")).await;
        assert!(taken.contains("< HTTP/1.1 100 Continue"), "{way}: {taken}");
        assert!(taken.contains("sent 300000 got 200"), "{way}: {taken}");
        let refused = output(&mut send("/refuse")).await;
        assert!(refused.contains("sent 0 got 413"), "{way}: {refused}");
        let refused = refused.to_ascii_lowercase();
        assert!(refused.contains("< connection: close"), "{way}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_uploads_in_chunks() {
    let Some((_app, town)) = curl_app().await else {
        return;
    };
    let file = tempfile::NamedTempFile::new().expect("a file");
    let body: Vec<u8> = (0..1_000_000_u32).map(|n| (n * 31 / 7) as u8).collect();
    std::fs::write(file.path(), &body).expect("a file");
    for way in WAYS {
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            if version != "--http1.1" && matches!(way, Way::Proxy | Connect) {
                continue;
            }
            let (mut curl, base) = curl_by(&town, way);
            let input = std::fs::File::open(file.path()).expect("the file");
            curl.args([version, "-X", "POST", "-T", "-", &format!("{base}/mirror")]).stdin(input);
            let mirrored = support::within(curl.output()).await.expect("curl");
            assert!(mirrored.status.success(), "{way}: {mirrored:?}");
            assert!(mirrored.stdout == body, "{way} {version}: another body");
            let (mut curl, base) = curl_by(&town, way);
            let input = std::fs::File::open(file.path()).expect("the file");
            curl.args([version, "-T", "-", &format!("{base}/echo")]).stdin(input);
            let seen = seen(&output(&mut curl).await);
            assert_eq!(seen["length"], 1_000_000, "{way} {version}");
            assert_eq!(header(&seen, "transfer-encoding"), Some("chunked"), "{way} {version}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_gets_events_one_by_one() {
    let Some((_app, town)) = curl_app().await else {
        return;
    };
    for way in WAYS {
        let (mut events, base) = curl_by(&town, way);
        events.args(["-N", &format!("{base}/events?name={way}")]);
        let mut events = Reader::start(&mut events);
        for number in 1..=3 {
            let line = events.line().await;
            assert_eq!(line.as_deref(), Some(&*format!("data: {number}")), "{way}");
            // Only now the app sends the next one.
            let (mut ack, base) = curl_by(&town, way);
            ack.args(["-X", "POST", &format!("{base}/ack?name={way}")]);
            output(&mut ack).await;
        }
        assert_eq!(events.line().await, None, "{way}");
        assert!(events.succeeded().await, "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_polls_long() {
    let Some((_app, town)) = curl_app().await else {
        return;
    };
    for way in WAYS {
        let (mut poll, base) = curl_by(&town, way);
        poll.args(["-w", "\n", &format!("{base}/poll?name={way}")]);
        let mut poll = Reader::start(&mut poll);
        // Answered when the poll has arrived.
        let (mut release, base) = curl_by(&town, way);
        release.args(["-f", &format!("{base}/release?name={way}")]);
        output(&mut release).await;
        assert_eq!(poll.line().await.as_deref(), Some("released"), "{way}");
    }
}
