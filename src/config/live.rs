//! The published snapshot. Control stores it; each worker looks once for a request.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::snapshot::Snapshot;

#[derive(Clone)]
pub struct Live(Arc<ArcSwap<Snapshot>>);

/// A worker's cached view of [`Live`]: a read is one atomic load while nothing changes.
pub struct Reader(arc_swap::Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>);

impl Live {
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self(Arc::new(ArcSwap::new(snapshot)))
    }

    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.0.store(snapshot);
    }

    pub fn current(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    pub fn reader(&self) -> Reader {
        Reader(arc_swap::Cache::new(self.0.clone()))
    }
}

impl Reader {
    pub fn read(&mut self) -> &Arc<Snapshot> {
        self.0.load()
    }
}
