use tokio::task::LocalSet;

use super::*;
use crate::config::load::Origin;
use crate::registry::demand::Demands;

fn snapshot(yaml: &str) -> Snapshot {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), yaml).expect("it is written");
    let origin = Origin::File(file.path().to_owned());
    let loaded = origin.load(&BTreeSet::new(), None, 1, false);
    loaded.unwrap_or_else(|refused| panic!("{}", refused.lines.join("\n"))).snapshot
}

#[test]
fn what_another_list_of_registries_said_counts_no_more() {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime");
    let (one, two) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let with = |dir: &tempfile::TempDir, more: &str| {
        let path = dir.path().display();
        snapshot(&format!(
            "registry: {{ directory: {{ path: {path} }}{more} }}\nservices: {{ users: {{}} }}\n"
        ))
    };
    LocalSet::new().block_on(&runtime, async {
        let (discovery, mut hears) = Discovery::new(Demands::new().1);
        discovery.follow(&with(&one, ""));
        let said = hears.news.recv().await.expect("an answer");
        assert!(discovery.is_current(said.generation));
        discovery.follow(&with(&one, ", advertise: off"));
        assert!(discovery.is_current(said.generation), "it is asked as before");
        discovery.follow(&with(&two, ""));
        assert!(!discovery.is_current(said.generation));
        let now = hears.news.recv().await.expect("an answer");
        assert!(discovery.is_current(now.generation));
        let services = discovery.services.borrow();
        assert_eq!(services["users"].known.source(), None, "it has not been heard yet");
    });
}
