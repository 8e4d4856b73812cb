//! Kubernetes: EndpointSlices as an API server tells them, over TLS. One test asks a real API server, which
//! `KUBECONFIG` names:
//!
//!     KUBECONFIG=~/.kube/config cargo test --test registry_kubernetes -- --ignored

#![cfg(feature = "kubernetes")]

mod support;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;

use pilotfish::registry::Reason;
use pilotfish::registry::kubernetes::Kubernetes;
use pilotfish::registry::settings;
use support::kubernetes::{ApiServer, Expiry, Mood, slice, slice_at};
use support::watched::{Watched, on_one_thread};
use support::{Proxy, client, eventually, upstream::Upstream, within};

fn settings(kubeconfig: PathBuf) -> settings::Kubernetes {
    settings::Kubernetes {
        namespace: None,
        port: None,
        zone: None,
        kubeconfig: Some(kubeconfig),
        context: None,
    }
}

fn registry(server: &ApiServer) -> Rc<Kubernetes> {
    Rc::new(Kubernetes::new(&settings(server.kubeconfig())))
}

#[tokio::test]
async fn pods_are_found_and_followed() {
    let server = ApiServer::start().await;
    server.put(slice("shop", "users", &[1, 2]));
    server.put(slice("other", "users", &[9]));
    on_one_thread(async {
        let registry = registry(&server);
        let mut users = Watched::begin(&registry, "users");
        let told = users.until(&["127.0.0.1:8080", "127.0.0.2:8080"]).await;
        assert_eq!(told[0].zone.as_deref(), Some("eu-west-1a"));
        let mut others = Watched::begin(&registry, "users.other");
        others.until(&["127.0.0.9:8080"]).await;
        let mut nobody = Watched::begin(&registry, "nobody");
        assert_eq!(nobody.next().await, Ok(vec![]), "a service without slices is an answer");
        server.put(slice("shop", "users", &[1, 3]));
        users.until(&["127.0.0.1:8080", "127.0.0.3:8080"]).await;
        let mut more = slice("shop", "users", &[4]);
        more["metadata"]["name"] = "users-more".into();
        server.put(more);
        users.until(&["127.0.0.1:8080", "127.0.0.3:8080", "127.0.0.4:8080"]).await;
        server.delete("shop", "users-x7k2p");
        users.until(&["127.0.0.4:8080"]).await;
        server.delete("shop", "users-more");
        users.until(&[]).await;
        server.put(slice("shop", "users", &[5]));
        users.until(&["127.0.0.5:8080"]).await;
    })
    .await;
}

#[tokio::test]
async fn services_share_a_watch_that_asks_for_no_others() {
    let server = ApiServer::start().await;
    server.pages_of(2);
    for (service, pod) in [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5), ("uncalled", 6)] {
        server.put(slice("shop", service, &[pod]));
    }
    on_one_thread(async {
        let registry = registry(&server);
        let mut all: Vec<_> =
            ["a", "b", "c", "d"].map(|service| Watched::begin(&registry, service)).into();
        for (watched, pod) in all.iter_mut().zip(1..) {
            watched.until(&[&format!("127.0.0.{pod}:8080")]).await;
        }
        all.push(Watched::begin(&registry, "e"));
        all[4].until(&["127.0.0.5:8080"]).await;
        server.put(slice("shop", "a", &[7]));
        all[0].until(&["127.0.0.7:8080"]).await;
        let watches = server.watches();
        assert_eq!(watches.last().unwrap(), "kubernetes.io/service-name in (a,b,c,d,e)");
        assert!(watches.len() <= 3, "{watches:?}");
        let asked = [watches, server.lists()].concat();
        assert!(!asked.iter().any(|selector| selector.contains("uncalled")), "{asked:?}");
    })
    .await;
}

#[tokio::test]
async fn more_services_than_one_question_bears_are_followed_too() {
    let server = ApiServer::start().await;
    for pod in 1..=100 {
        server.put(slice("shop", &format!("service-{pod}"), &[pod]));
    }
    on_one_thread(async {
        let registry = registry(&server);
        let all = (1..=100).map(|pod| Watched::begin(&registry, &format!("service-{pod}")));
        let mut all: Vec<_> = all.collect();
        for (watched, pod) in all.iter_mut().zip(1..) {
            watched.until(&[&format!("127.0.0.{pod}:8080")]).await;
        }
        assert!(server.watches().len() <= 8, "{}", server.watches().len());
        // Who is left is followed on.
        all.drain(..99);
        server.put(slice("shop", "service-100", &[200]));
        all[0].until(&["127.0.0.200:8080"]).await;
    })
    .await;
}

#[tokio::test]
async fn a_name_that_cannot_be_a_service_is_in_nobodys_way() {
    let server = ApiServer::start().await;
    server.put(slice("shop", "users", &[1]));
    on_one_thread(async {
        let registry = registry(&server);
        let mut users = Watched::begin(&registry, "users");
        users.until(&["127.0.0.1:8080"]).await;
        let long = "a".repeat(64);
        for odd in [&*long, "users-.shop", "users.-", "users.shop.more"] {
            let mut nobody = Watched::begin(&registry, odd);
            assert_eq!(nobody.next().await, Ok(vec![]), "{odd}");
        }
        let mut orders = Watched::begin(&registry, "orders");
        assert_eq!(orders.next().await, Ok(vec![]));
        server.put(slice("shop", "users", &[2]));
        users.until(&["127.0.0.2:8080"]).await;
    })
    .await;
}

#[tokio::test]
async fn a_slice_that_becomes_another_services_is_no_more_the_ones() {
    let server = ApiServer::start().await;
    server.put(slice("shop", "users", &[1]));
    on_one_thread(async {
        let registry = registry(&server);
        let mut users = Watched::begin(&registry, "users");
        let mut people = Watched::begin(&registry, "people");
        users.until(&["127.0.0.1:8080"]).await;
        people.until(&[]).await;
        let mut moved = slice("shop", "users", &[1]);
        moved["metadata"]["labels"]["kubernetes.io/service-name"] = "people".into();
        server.put(moved);
        people.until(&["127.0.0.1:8080"]).await;
        users.until(&[]).await;
    })
    .await;
}

#[tokio::test]
async fn a_program_that_hangs_when_it_is_asked_who_we_are_holds_nobody_up() {
    let server = ApiServer::start().await;
    // Longer than we wait, and no longer than a test may.
    let path = server.kubeconfig_exec("sleep", "12");
    on_one_thread(async {
        let registry = Rc::new(Kubernetes::new(&settings(path)));
        let mut users = Watched::begin(&registry, "users");
        let mut ticks = 0;
        let error = tokio::select! {
            error = users.failure() => error,
            () = async { loop {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                ticks += 1;
            } } => unreachable!("it has no end"),
        };
        assert_eq!(error.reason, Reason::Timeout, "{error}");
        assert!(ticks > 20, "the thread was held up: {ticks}");
    })
    .await;
}

#[tokio::test]
async fn what_has_expired_is_read_again_and_what_has_ended_goes_on() {
    let server = ApiServer::start().await;
    server.put(slice("shop", "users", &[1]));
    on_one_thread(async {
        let registry = registry(&server);
        let mut users = Watched::begin(&registry, "users");
        users.until(&["127.0.0.1:8080"]).await;
        for (expiry, pod) in [(Expiry::ByEvent, 2), (Expiry::ByStatus, 3)] {
            // It is followed, and so it goes on from here when the watch ends.
            server.put(slice("shop", "users", &[pod]));
            users.until(&[&format!("127.0.0.{pod}:8080")]).await;
            let (lists, watches) = (server.lists().len(), server.watches().len());
            server.expire(expiry);
            eventually(|| async { (server.watches().len() == watches + 2).then_some(()) }).await;
            assert_eq!(server.lists().len(), lists + 1, "all is read again once");
        }
        // A bookmark says how far it is: the next watch goes on from there.
        users.forget();
        server.bookmark();
        assert_eq!(users.next().await.map(|told| told.len()), Ok(1), "it lives");
        server.put(slice("shop", "users", &[4]));
        users.until(&["127.0.0.4:8080"]).await;
        let (lists, watches) = (server.lists().len(), server.watches().len());
        server.end_watches();
        eventually(|| async { (server.watches().len() > watches).then_some(()) }).await;
        server.put(slice("shop", "users", &[5]));
        users.until(&["127.0.0.5:8080"]).await;
        assert_eq!(server.lists().len(), lists, "what is known is not read again");
    })
    .await;
}

#[tokio::test]
async fn nothing_that_an_api_server_says_wrongly_empties_anything() {
    let moods = [
        (Mood::Status(500), Reason::Failed),
        (Mood::Status(503), Reason::Failed),
        (Mood::Status(429), Reason::Failed),
        (Mood::Status(403), Reason::Refused),
        (Mood::Status(404), Reason::Refused),
        (Mood::Says("{\"kind\":\"EndpointSliceList\",\"items\":["), Reason::Garbage),
        (Mood::Says("garbage"), Reason::Garbage),
        (Mood::Says(""), Reason::Garbage),
        (Mood::Says("{}"), Reason::Garbage),
        (Mood::Says("[]"), Reason::Garbage),
        (Mood::Silent, Reason::Timeout),
    ];
    on_one_thread(async {
        let mut all = tokio::task::JoinSet::new();
        for (mood, reason) in moods {
            all.spawn_local(async move {
                let mut server = ApiServer::start().await;
                server.put(slice("shop", "users", &[1]));
                let registry = registry(&server);
                let mut users = Watched::begin(&registry, "users");
                users.until(&["127.0.0.1:8080"]).await;
                server.becomes(mood.clone());
                server.kill().await;
                server.listen();
                within(async {
                    loop {
                        match users.next().await {
                            Ok(told) => assert_eq!(told.len(), 1, "{mood:?}"),
                            Err(error) if error.reason == reason => break,
                            // The connection that broke.
                            Err(error) => {
                                assert_eq!(error.reason, Reason::Unreachable, "{mood:?}: {error}")
                            }
                        }
                    }
                })
                .await;
                server.becomes(Mood::Well);
                server.put(slice("shop", "users", &[2]));
                users.until(&["127.0.0.2:8080"]).await;
            });
        }
        while let Some(done) = all.join_next().await {
            done.expect("it holds");
        }
    })
    .await;
}

const PAGES: [&str; 2] = [
    include_str!("support/recorded/kubernetes/page1.json"),
    include_str!("support/recorded/kubernetes/page2.json"),
];
const WATCH: &str = include_str!("support/recorded/kubernetes/watch.jsonl");
const EXPIRED: &str = include_str!("support/recorded/kubernetes/expired.jsonl");
const FORBIDDEN: &str = include_str!("support/recorded/kubernetes/403.json");

#[tokio::test]
async fn what_an_api_server_has_said_is_understood() {
    let server = ApiServer::start().await;
    server.becomes(Mood::Replays { pages: &PAGES, watches: &[EXPIRED, WATCH] });
    on_one_thread(async {
        let zone = Some("eu-west-1b".to_owned());
        let settings = settings::Kubernetes { zone, ..settings(server.kubeconfig()) };
        let registry = Rc::new(Kubernetes::new(&settings));
        let mut users = Watched::begin(&registry, "users");
        users.until(&["10.244.1.7:8080"]).await;
        let told = users.until(&["10.244.2.9:8080", "10.244.3.3:8080"]).await;
        assert_eq!(&*told[0].labels["pod"], "users-7d9f-fghij");
        assert_eq!(server.lists().len(), 4, "two pages, twice, as the first watch had expired");
        server.becomes(Mood::Refuses(403, FORBIDDEN));
        server.end_watches();
        let error = users.failure().await;
        assert_eq!(error.reason, Reason::Refused);
        assert!(error.detail.contains("User \"nobody\" cannot list"), "{error}");
        assert!(error.detail.contains("needs `list` and `watch`"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn what_is_wrong_with_who_we_are_is_told_and_read_again() {
    let server = ApiServer::start().await;
    server.put(slice("shop", "users", &[1]));
    on_one_thread(async {
        let why = async |settings: settings::Kubernetes| {
            let registry = Rc::new(Kubernetes::new(&settings));
            let error = Watched::begin(&registry, "users").failure().await;
            (error.reason, error.detail)
        };
        let absent = settings(PathBuf::from("/nowhere/kubeconfig"));
        let (reason, detail) = why(absent).await;
        assert_eq!(reason, Reason::Refused);
        assert!(detail.contains("/nowhere/kubeconfig cannot be used"), "{detail}");
        let context = Some("mars".to_owned());
        let (_, detail) =
            why(settings::Kubernetes { context, ..settings(server.kubeconfig()) }).await;
        assert!(detail.contains("mars"), "{detail}");
        let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let (reason, detail) =
            why(settings(server.kubeconfig_with("canary-token", &other.cert.pem()))).await;
        assert_eq!(reason, Reason::Unreachable, "{detail}");
        assert!(detail.contains("certificate"), "{detail}");

        let _ = server.kubeconfig();
        let certificate = std::fs::read_to_string(server.service_account().join("ca.crt")).unwrap();
        let path = server.kubeconfig_with("canary-wrong", &certificate);
        let registry = Rc::new(Kubernetes::new(&settings(path)));
        let mut users = Watched::begin(&registry, "users");
        let error = users.failure().await;
        assert_eq!(error.reason, Reason::Refused);
        assert!(
            error.detail.contains("check the token") && !error.detail.contains("canary"),
            "{error}"
        );
        server.kubeconfig();
        users.until(&["127.0.0.1:8080"]).await;
    })
    .await;
}

#[tokio::test]
async fn a_port_that_is_not_there_is_told() {
    let server = ApiServer::start().await;
    server.put(slice("shop", "users", &[1]));
    on_one_thread(async {
        let port = Some("grpc".to_owned());
        let settings = settings::Kubernetes { port, ..settings(server.kubeconfig()) };
        let registry = Rc::new(Kubernetes::new(&settings));
        let error = Watched::begin(&registry, "users").failure().await;
        assert!(
            error.detail.contains("no port `grpc`; its pods have `http` (8080/TCP)"),
            "{error}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_sidecar_calls_pods_by_every_name_and_keeps_them_while_the_api_server_is_away() {
    let mut server = ApiServer::start().await;
    let app = Upstream::named("users").await;
    let at = |app: &Upstream| (app.address.ip().to_string(), app.address.port());
    server.put(slice_at("shop", "users", &[at(&app)]));
    let caller = Proxy::start(&format!(
        "registry: {{ kubernetes: {{ kubeconfig: {} }} }}",
        server.kubeconfig().display()
    ))
    .await;
    for name in ["users", "users.shop", "users.shop.svc", "users.shop.svc.cluster.local"] {
        let answer = client::get_from(caller.outbound(), name, "/").await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "users"), "{name}");
    }
    server.kill().await;
    let state = "pilotfish_registry_service_state{service=\"users\",state=\"stale\"}";
    eventually(|| async { (caller.metric(state).await == 1.0).then_some(()) }).await;
    assert_eq!(client::get_from(caller.outbound(), "users", "/").await.text(), "users");
    let other = Upstream::named("others").await;
    server.put(slice_at("shop", "users", &[at(&other)]));
    server.listen();
    drop(app);
    eventually(|| async {
        let answer = client::get_from(caller.outbound(), "users", "/").await;
        (answer.text() == "others").then_some(())
    })
    .await;
    assert_eq!(caller.metric("pilotfish_registry_up{registry=\"kubernetes\"}").await, 1.0);
}

/// As in a pod: by what is mounted there. Needs a mount namespace, and so to be root.
#[tokio::test]
async fn in_a_pod_nothing_is_to_be_configured() {
    let unshare = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
    if !unshare.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("PILOTFISH_TESTS_NO_SKIP").is_none(), "needs root and unshare");
        eprintln!("skipped: needs root and unshare");
        return;
    }
    let server = ApiServer::start().await;
    let app = Upstream::named("users").await;
    let at = (app.address.ip().to_string(), app.address.port());
    server.put(slice_at("shop", "users", &[at]));
    let dir = tempfile::tempdir().unwrap();
    let [outbound, admin]: [std::net::SocketAddr; 2] = std::array::from_fn(|_| {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    });
    let config = dir.path().join("pilotfish.yaml");
    std::fs::write(
        &config,
        format!("registry: kubernetes://\noutbound: {{ listen: \"{outbound}\" }}\nadmin: {{ listen: \"{admin}\", metrics: off }}\n"),
    )
    .unwrap();
    // `/var/run` may be a link to `/run`.
    let script = "set -e; mount -t tmpfs none /run; mkdir -p /run/secrets/kubernetes.io/serviceaccount; \
                  cp \"$1\"/token \"$1\"/ca.crt \"$1\"/namespace /run/secrets/kubernetes.io/serviceaccount; \
                  exec \"$2\" run -c \"$3\"";
    let mut child = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(server.service_account())
        .arg(env!("CARGO_BIN_EXE_pilotfish"))
        .arg(&config)
        .env("KUBERNETES_SERVICE_HOST", server.address.ip().to_string())
        .env("KUBERNETES_SERVICE_PORT", server.address.port().to_string())
        .env_remove("KUBECONFIG")
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let answered = tokio::time::timeout(support::PATIENCE, async {
        loop {
            if tokio::net::TcpStream::connect(outbound).await.is_ok() {
                return client::get_from(outbound, "users", "/").await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    child.kill().expect("it runs");
    child.wait().expect("its end");
    assert_eq!(answered.expect("it answers").text(), "users");
}

#[tokio::test]
#[ignore = "needs an API server that KUBECONFIG names, where we may write EndpointSlices of `default`"]
async fn a_real_api_server_tells_the_same() {
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
    use kube::{Api, Client};
    let path = std::env::var_os("KUBECONFIG").expect("KUBECONFIG").into();
    let client = Client::try_default().await.expect("a client");
    let slices: Api<EndpointSlice> = Api::namespaced(client, "default");
    let of = |service: &str, pods: &[u8]| {
        let mut slice = slice("default", service, pods);
        slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] = "test".into();
        for endpoint in slice["endpoints"].as_array_mut().unwrap() {
            // The API server takes no loopback addresses.
            let ip = endpoint["addresses"][0].as_str().unwrap().replace("127.0.0", "10.255.0");
            endpoint["addresses"][0] = ip.into();
        }
        serde_json::from_value::<EndpointSlice>(slice).unwrap()
    };
    let service = format!("pilotfish-test-{}", fastrand::u32(..));
    let name = format!("{service}-x7k2p");
    on_one_thread(async {
        let settings =
            settings::Kubernetes { namespace: Some("default".to_owned()), ..settings(path) };
        let registry = Rc::new(Kubernetes::new(&settings));
        let mut watched = Watched::begin(&registry, &service);
        assert_eq!(watched.next().await, Ok(vec![]));
        slices.create(&PostParams::default(), &of(&service, &[1, 2])).await.expect("it is made");
        watched.until(&["10.255.0.1:8080", "10.255.0.2:8080"]).await;
        let patch = serde_json::json!({ "endpoints": of(&service, &[2, 3]).endpoints });
        slices
            .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .expect("it changes");
        watched.until(&["10.255.0.2:8080", "10.255.0.3:8080"]).await;
        let mut other = Watched::begin(&registry, "pilotfish-test-nobody");
        assert_eq!(other.next().await, Ok(vec![]));
        slices.delete(&name, &DeleteParams::default()).await.expect("it goes");
        watched.until(&[]).await;
    })
    .await;
}
