//! What a registry tells of a service, followed as the proxy follows it.

use std::rc::Rc;
use std::sync::Arc;

use pilotfish::endpoint::Instance;
use pilotfish::registry::{Error, News, Registry, Tell};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::{JoinHandle, LocalSet};

use super::within;

/// Ends to follow when it is dropped.
pub struct Watched {
    news: UnboundedReceiver<News>,
    task: JoinHandle<()>,
}

impl Watched {
    /// In a [`LocalSet`].
    pub fn begin(registry: &Rc<impl Registry + 'static>, service: &str) -> Self {
        let (tell, news) = unbounded_channel();
        let service: Arc<str> = service.into();
        let tell = Tell::new(0, 0, service.clone(), tell);
        let task = tokio::task::spawn_local(registry.clone().watch(service, tell));
        Self { news, task }
    }

    pub async fn next(&mut self) -> Result<Vec<Instance>, Error> {
        within(self.news.recv()).await.expect("it is followed").told
    }

    /// Waits until just these addresses are told as such that may be called.
    pub async fn until(&mut self, addresses: &[&str]) -> Vec<Instance> {
        let mut expected = addresses.to_vec();
        expected.sort_unstable();
        let mut last = None;
        let told = tokio::time::timeout(super::PATIENCE, async {
            loop {
                let news = self.news.recv().await.expect("it is followed").told;
                if let Ok(instances) = &news {
                    let mut told: Vec<_> =
                        callable(instances).map(|instance| instance.address.to_string()).collect();
                    told.sort();
                    if told == expected {
                        return callable(instances).cloned().collect();
                    }
                }
                last = Some(news);
            }
        })
        .await;
        told.unwrap_or_else(|_| panic!("not told: {expected:?}, but last: {last:?}"))
    }

    /// Waits until it is told that the registry does not tell.
    pub async fn failure(&mut self) -> Error {
        within(async {
            loop {
                let news = self.news.recv().await.expect("it is followed");
                if let Err(error) = news.told {
                    return error;
                }
            }
        })
        .await
    }

    /// Nothing that was told by now is looked at.
    pub fn forget(&mut self) {
        while self.news.try_recv().is_ok() {}
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs a test on one thread, as registries run.
pub async fn on_one_thread<F: Future>(test: F) -> F::Output {
    LocalSet::new().run_until(test).await
}

fn callable(instances: &[Instance]) -> impl Iterator<Item = &Instance> {
    instances.iter().filter(|instance| instance.is_callable())
}
