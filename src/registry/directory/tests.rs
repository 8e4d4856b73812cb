use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::timeout;

use super::*;
use crate::registry::News;

const TTL: Duration = Duration::from_secs(60);
const MINUTE: Duration = Duration::from_secs(60);

/// One of `service` at `port`.
fn app(service: &str, port: u16) -> Announcement {
    Announcement {
        service: service.into(),
        id: format!("{service}-{port}"),
        address: None,
        port,
        metrics_port: Some(15020),
        version: None,
        zone: None,
        weight: 1,
        tags: vec![],
        metadata: [].into(),
    }
}

fn files(dir: &TempDir) -> Files {
    Files::at(dir.path().to_owned(), TTL)
}

fn wall() -> SystemTime {
    clock::wall()
}

/// `path` looks as if nobody had touched it for so long.
fn age(path: &Path, age: Duration) {
    fs::File::open(path).unwrap().set_modified(wall() - age).unwrap();
}

fn file(dir: &TempDir, name: &str) -> PathBuf {
    dir.path().join(name)
}

fn ports(told: &Result<Vec<Instance>, Error>) -> Vec<String> {
    told.as_ref().unwrap().iter().map(|it| it.address.to_string()).collect()
}

#[test]
fn what_cannot_be_read_makes_no_list_shorter() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(&dir);
    for (service, port) in [("users", 1), ("users", 2), ("orders", 3)] {
        files.write(&app(service, port), Health::Passing).unwrap();
    }
    let one = file(&dir, "users@users-2.json");
    fs::remove_file(&one).unwrap();
    symlink("users@users-2.json", &one).unwrap();
    let found = files.scan(wall()).unwrap();
    let error = found.of("users").unwrap_err();
    assert_eq!(error.reason, Reason::Failed);
    assert!(error.detail.contains("users@users-2.json"), "{error}");
    assert_eq!(ports(&found.of("orders")), ["127.0.0.1:3"]);
    // It went away while it was looked for.
    fs::remove_file(&one).unwrap();
    symlink("nowhere", &one).unwrap();
    assert_eq!(ports(&files.scan(wall()).unwrap().of("users")), ["127.0.0.1:1"]);
}

#[test]
fn what_makes_no_sense_is_left_out_and_an_error_where_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(&dir);
    let path = |name: &str| file(&dir, &format!("users@{name}.json"));
    fs::write(path("text"), "no JSON").unwrap();
    fs::write(path("half"), "[{").unwrap();
    let good = super::file::File::text(&app("users", 1), "127.0.0.1", Health::Passing, TTL);
    fs::write(path("address"), good.replace("127.0.0.1:1\"", "a b:c\"")).unwrap();
    fs::write(path("long"), good + &" ".repeat(64 << 10)).unwrap();
    mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    symlink("/dev/zero", path("endless")).unwrap();
    fs::create_dir(path("directory")).unwrap();
    let found = files.scan(wall()).unwrap();
    assert_eq!(found.of("users").unwrap_err().reason, Reason::Garbage);
    assert_eq!(found.senseless.len(), 7, "{:?}", found.senseless);
    files.write(&app("users", 2), Health::Passing).unwrap();
    assert_eq!(ports(&files.scan(wall()).unwrap().of("users")), ["127.0.0.1:2"]);
    // Nobody will ever correct it.
    files.remove(&app("users", 2)).unwrap();
    assert_eq!(files.scan(wall() + 61 * MINUTE).unwrap().of("users"), Ok(vec![]));
}

#[test]
fn files_of_who_lives_no_more_are_removed_of_whatever_service() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(&dir);
    for service in ["batch", "users"] {
        files.write(&app(service, 1), Health::Passing).unwrap();
    }
    fs::write(file(&dir, "batch@batch-2.new"), "").unwrap();
    fs::write(file(&dir, "users@users-2.new"), "").unwrap();
    fs::write(file(&dir, "notes.txt"), "").unwrap();
    for name in ["batch@batch-1.json", "batch@batch-2.new", "notes.txt"] {
        age(&file(&dir, name), TTL + MINUTE);
    }
    let found = files.scan(wall()).unwrap();
    assert_eq!(found.of("batch"), Ok(vec![]));
    assert_eq!(ports(&found.of("users")), ["127.0.0.1:1"]);
    let mut left: Vec<_> = files.names().unwrap();
    left.sort();
    assert_eq!(left, ["notes.txt", "users@users-1.json", "users@users-2.new"]);
}

#[tokio::test]
async fn who_only_announces_removes_them_too() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::of(files(&dir), TTL);
    let (ours, killed) = (app("users", 1), app("batch", 2));
    directory.register(&killed, Health::Passing).await.unwrap();
    directory.register(&ours, Health::Passing).await.unwrap();
    age(&file(&dir, "batch@batch-2.json"), TTL + MINUTE);
    age(&file(&dir, "users@users-1.json"), TTL - MINUTE / 2);
    assert_eq!(directory.renew(&ours, Health::Passing).await, Ok(Renewal::Kept));
    assert_eq!(directory.renew(&killed, Health::Passing).await, Ok(Renewal::Forgotten));
    let touched = fs::metadata(file(&dir, "users@users-1.json")).unwrap().modified().unwrap();
    assert!(wall().duration_since(touched).unwrap_or_default() < MINUTE / 3);
    directory.deregister(&ours).await.unwrap();
    directory.deregister(&ours).await.expect("it is not there");
    assert_eq!(files(&dir).names().unwrap(), [""; 0]);
}

#[test]
fn what_says_only_that_somebody_lives_wakes_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (files, ours) = (files(&dir), app("users", 1));
    files.write(&ours, Health::Passing).unwrap();
    let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&events, dir.path(), watch::CHANGES).unwrap();
    let mut told = [0_u8; 4096];
    assert!(files.touch(&ours, Health::Passing, wall()).unwrap());
    files.scan(wall()).unwrap();
    assert!(rustix::io::read(&events, &mut told).is_err(), "nothing has changed");
    assert!(files.touch(&ours, Health::Critical, wall()).unwrap());
    assert!(rustix::io::read(&events, &mut told).is_ok());
}

#[test]
fn others_may_read_what_we_write_and_none_may_write_to_what_is_ours() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let us = rustix::process::getuid().as_raw();
    let shared = |uid: u32| Files::own(dir.path().join("pilotfish"), uid, TTL);
    let own = dir.path().join("pilotfish");
    let ours = app("users", 1);
    assert_eq!(shared(us).scan(wall()).unwrap_err().kind(), io::ErrorKind::NotFound);
    shared(us).write(&ours, Health::Passing).unwrap();
    assert_eq!(mode(&own), 0o700);
    assert_eq!(mode(&own.join("services/users@users-1.json")), 0o644);
    let refuses = |files: Files, what: &str| {
        for error in
            [files.scan(wall()).unwrap_err(), files.write(&ours, Health::Passing).unwrap_err()]
        {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
            assert!(error.to_string().contains(what), "{error}");
        }
        assert!(!files.touch(&ours, Health::Passing, wall()).unwrap());
    };
    refuses(shared(us + 1), "another user");
    fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).unwrap();
    refuses(shared(us), "written to by others");
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&own, &elsewhere).unwrap();
    symlink(&elsewhere, &own).unwrap();
    refuses(shared(us), "no directory");
    // Nobody but us can have made it there.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(shared(us).scan(wall()).is_ok());
}

#[test]
fn a_file_that_nobody_would_read_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let metadata = [("a".to_owned(), "a".repeat(64 << 10))].into();
    let error = files(&dir).write(&Announcement { metadata, ..app("users", 1) }, Health::Passing);
    assert!(error.unwrap_err().to_string().contains("metadata"));
    assert_eq!(files(&dir).names().unwrap(), [""; 0]);
}

/// One that follows a service, and what it was told.
struct Follower {
    news: UnboundedReceiver<News>,
    task: JoinHandle<()>,
}

impl Follower {
    fn begin(directory: &Rc<Directory>, service: &str) -> Self {
        let (tell, news) = unbounded_channel();
        let tell = Tell::new(0, 0, service.into(), tell);
        let task = tokio::task::spawn_local(directory.clone().watch(service.into(), tell));
        Self { news, task }
    }

    async fn next(&mut self) -> Result<Vec<Instance>, Error> {
        timeout(MINUTE / 6, self.news.recv()).await.expect("in time").expect("it is told").told
    }
}

#[tokio::test]
async fn one_look_is_for_all_and_tells_each_what_changes_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Rc::new(Directory::of(files(&dir), TTL));
    LocalSet::new()
        .run_until(async {
            let mut users = Follower::begin(&directory, "users");
            assert_eq!(users.next().await, Ok(vec![]));
            // It need not be looked for again.
            let mut orders = Follower::begin(&directory, "orders");
            assert_eq!(orders.next().await, Ok(vec![]));
            // We, who look, and who follow twice each.
            assert_eq!(Rc::strong_count(&directory), 6);
            directory.register(&app("users", 1), Health::Passing).await.unwrap();
            assert_eq!(ports(&users.next().await), ["127.0.0.1:1"]);
            directory.register(&app("orders", 2), Health::Passing).await.unwrap();
            assert_eq!(ports(&orders.next().await), ["127.0.0.1:2"]);
            assert!(users.news.try_recv().is_err() && orders.news.try_recv().is_err());
            for follower in [users, orders] {
                follower.task.abort();
                assert!(follower.task.await.unwrap_err().is_cancelled());
            }
            while Rc::strong_count(&directory) > 1 {
                tokio::task::yield_now().await;
            }
            assert!(directory.read.borrow().is_none());
        })
        .await;
}

#[tokio::test]
async fn a_directory_that_vanishes_has_not_become_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("services");
    let ttl = Duration::from_millis(300);
    let directory = Rc::new(Directory::of(Files::at(path.clone(), ttl), ttl));
    LocalSet::new()
        .run_until(async {
            let mut users = Follower::begin(&directory, "users");
            assert_eq!(users.next().await, Ok(vec![]), "nobody has registered yet");
            directory.register(&app("users", 1), Health::Passing).await.unwrap();
            while users.next().await.unwrap().is_empty() {}
            fs::rename(&path, dir.path().join("away")).unwrap();
            let error = loop {
                match users.next().await {
                    Ok(told) => assert!(!told.is_empty()),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.reason, Reason::Failed);
            assert!(error.detail.contains("check the path"), "{error}");
            directory.register(&app("users", 2), Health::Passing).await.unwrap();
            loop {
                if let Ok(told) = users.next().await {
                    break assert_eq!(ports(&Ok(told)), ["127.0.0.1:2"]);
                }
            }
        })
        .await;
}
