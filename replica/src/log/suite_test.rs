//! openraft's own storage suite over both stores on both engines.

use std::path::Path;
use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use world::GroupId;

use crate::engine::Engine;
use crate::engine::rocks::{Memory, Mode, RocksEngine};
use crate::engine::sim::{SimDisk, SimEngine};
use crate::log::{LogStore, LogWriter};
use crate::state::StateStore;
use crate::testing::Sums;
use crate::types::TypeConfig;

type Stores = (LogStore, StateStore<Sums>);

fn stores(log: Arc<dyn Engine>, state: Arc<dyn Engine>, writer: LogWriter) -> Stores {
    let group = GroupId(7);
    (
        LogStore::open(group, log, writer).expect("an empty log"),
        StateStore::open(group, state, Sums::default()).expect("an empty state"),
    )
}

struct OnSim;

impl StoreBuilder<TypeConfig, LogStore, StateStore<Sums>> for OnSim {
    async fn build(&self) -> Result<((), LogStore, StateStore<Sums>), StorageError<TypeConfig>> {
        let log = SimEngine::open(&SimDisk::new());
        let pause = Arc::new(|| -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(tokio::task::yield_now())
        });
        let writer = LogWriter::start_task(log.clone(), pause);
        let (log, state) = stores(log, SimEngine::open(&SimDisk::new()), writer);
        Ok(((), log, state))
    }
}

struct OnRocks;

fn rocks(directory: &Path, name: &str, mode: Mode) -> Arc<RocksEngine> {
    let memory = Memory { write_buffer_bytes: 1 << 20, block_cache_bytes: 1 << 20 };
    RocksEngine::open(&directory.join(name), mode, memory).expect("a new instance")
}

impl StoreBuilder<TypeConfig, LogStore, StateStore<Sums>, tempfile::TempDir> for OnRocks {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, StateStore<Sums>), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().expect("a directory");
        let log = rocks(directory.path(), "log", Mode::Log);
        let writer = LogWriter::start_thread(log.clone()).expect("a thread");
        let state = rocks(directory.path(), "state", Mode::State);
        let (log, state) = stores(log, state, writer);
        Ok((directory, log, state))
    }
}

#[tokio::test]
async fn openrafts_suite_passes_on_the_simulated_engine() {
    Suite::test_all(OnSim).await.expect("the suite passes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_passes_on_rocksdb() {
    Suite::test_all(OnRocks).await.expect("the suite passes");
}
