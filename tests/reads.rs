//! Linearizable reads at every zone while zones are ended with SIGKILL: no answer is older than what
//! was acknowledged before the question, and none older than an answer that was given before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use tests::DevCluster;
use tokio::time::sleep;

const NODES: [&str; 3] = ["a1", "b1", "c1"];

/// What everybody knows: the newest revision of the key that was acknowledged or read.
#[derive(Clone, Default)]
struct Known(Arc<AtomicI64>);

impl Known {
    fn now(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    fn learn(&self, revision: i64) {
        self.0.fetch_max(revision, Ordering::SeqCst);
    }
}

async fn connect(endpoint: &str) -> Option<Client> {
    let options = ConnectOptions::new()
        .with_timeout(Duration::from_secs(5))
        .with_connect_timeout(Duration::from_secs(1));
    Client::connect([endpoint], Some(options)).await.ok()
}

async fn write(endpoints: Vec<String>, known: Known, stop: Arc<AtomicBool>) -> usize {
    let mut acknowledged = 0;
    for turn in 0.. {
        if let Some(mut client) = connect(&endpoints[turn % endpoints.len()]).await {
            while !stop.load(Ordering::SeqCst) {
                let Ok(answer) = client.put("k", "v", None).await else { break };
                known.learn(answer.header().expect("a header").revision());
                acknowledged += 1;
                sleep(Duration::from_millis(1)).await;
            }
        }
        if stop.load(Ordering::SeqCst) {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    acknowledged
}

/// Reads at one zone. Answers how many reads were answered.
async fn read(endpoint: String, known: Known, stop: Arc<AtomicBool>) -> usize {
    let mut answered = 0;
    while !stop.load(Ordering::SeqCst) {
        if let Some(mut client) = connect(&endpoint).await {
            while !stop.load(Ordering::SeqCst) {
                let before = known.now();
                let Ok(answer) = client.get("k", None).await else { break };
                let revision = answer.kvs().first().map_or(0, |pair| pair.mod_revision());
                assert!(revision >= before, "{endpoint} answered {revision} after {before} was known");
                known.learn(revision);
                answered += 1;
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_zone_answers_with_the_past_while_zones_are_killed() {
    let mut cluster = DevCluster::up();
    let endpoints: Vec<String> = NODES.iter().map(|node| cluster.field(node, "etcd")).collect();
    let (known, stop) = (Known::default(), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> =
        (0..2).map(|_| tokio::spawn(write(endpoints.clone(), known.clone(), Arc::clone(&stop)))).collect();
    let readers: Vec<_> =
        endpoints.iter().map(|at| tokio::spawn(read(at.clone(), known.clone(), Arc::clone(&stop)))).collect();
    for round in 0..6 {
        sleep(Duration::from_millis(1_000)).await;
        tokio::task::block_in_place(|| {
            cluster.kill(NODES[round % 3]);
            std::thread::sleep(Duration::from_millis(1_000));
            cluster.up_again();
        });
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        assert!(writer.await.expect("a writer ends") > 50, "hardly anything was written");
    }
    for reader in readers {
        assert!(reader.await.expect("no read is old") > 50, "a zone hardly answered");
    }
}
