//! Everything a build draws by chance, from one seed.
//!
//! ```text
//!   inputs  = BLAKE3(budget | script | scheme | layout)           each with its length before it
//!   root    = seed | inputs
//!   build id        = BLAKE3-derive("... build id", root)[..16]
//!   secrets         = BLAKE3-derive("... NAME key", root)         one context per key
//!   random streams  = ChaCha8(BLAKE3-derive("... PURPOSE", root), stream number)
//! ```
//! Without a seed from the caller, the operating system's is used, never stored. A seed from the
//! caller makes a build repeatable byte for byte, secrets included: that is for tests and audits,
//! and such a seed must be kept as secret as the keys themselves.
//!
//! Invariant: other inputs, scheme, layout or seed give another build id, other keys and other
//! streams, so no nonce is ever used for two different records.
//!
//! Not here: what is drawn.

use ticket::id::BuildId;
use ticket::keys::{BuildSecret, SealMaster};
use ticket::sign::SigningKey;
use world::rng::{Seed, Stream};

use super::inputs::Plan;
use super::layout::Layout;

/// What a stream is for. Contexts are frozen: a change makes old builds unrepeatable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Tiers of a batch over slots; by batch.
    TiersOverSlots,
    /// Counts over the files of a slot; by slot.
    CountsOverFiles,
    /// Money of a batch over the files of a slot; by slot and batch.
    MoneyOverFiles,
    /// Amounts of packets; by file.
    Amounts,
    /// Places of packets; by file.
    Places,
}

impl Purpose {
    fn context(self) -> &'static str {
        match self {
            Purpose::TiersOverSlots => "hongbao 2026 plan v1 tiers over slots",
            Purpose::CountsOverFiles => "hongbao 2026 plan v1 counts over files",
            Purpose::MoneyOverFiles => "hongbao 2026 plan v1 money over files",
            Purpose::Amounts => "hongbao 2026 plan v1 amounts",
            Purpose::Places => "hongbao 2026 plan v1 places",
        }
    }
}

/// The seeds of one build.
pub(crate) struct Seeds {
    root: [u8; 64],
}

impl Seeds {
    /// The seeds of a build of these inputs.
    pub fn new(seed: &Seed, plan: &Plan, scheme: &str, layout: Layout) -> Seeds {
        let mut hasher = blake3::Hasher::new_derive_key("hongbao 2026 plan v1 inputs");
        let nodes = [layout.nodes_per_zone];
        let records = layout.file_records_max.to_be_bytes();
        let parts: [&[u8]; 5] = [&plan.budget_bytes, &plan.script_bytes, scheme.as_bytes(), &nodes, &records];
        for part in parts {
            hasher.update(&(part.len() as u64).to_be_bytes()).update(part);
        }
        let mut root = [0u8; 64];
        root[..32].copy_from_slice(&seed.0);
        root[32..].copy_from_slice(hasher.finalize().as_bytes());
        Seeds { root }
    }

    fn derive(&self, context: &'static str) -> [u8; 32] {
        blake3::derive_key(context, &self.root)
    }

    /// The build's id.
    pub fn build_id(&self) -> BuildId {
        let derived = self.derive("hongbao 2026 plan v1 build id");
        BuildId(derived[..16].try_into().expect("16 of 32 bytes"))
    }

    /// What data keys derive from.
    pub fn build_secret(&self) -> BuildSecret {
        BuildSecret::from_bytes(self.derive("hongbao 2026 plan v1 build key"))
    }

    /// What the nodes' seal keys derive from.
    pub fn seal_master(&self) -> SealMaster {
        SealMaster::from_bytes(self.derive("hongbao 2026 plan v1 seal key"))
    }

    /// What signs the manifest and the roster.
    pub fn sign_key(&self) -> SigningKey {
        SigningKey::from_bytes(self.derive("hongbao 2026 plan v1 sign key"))
    }

    /// What signs session tokens.
    pub fn session_key(&self) -> SigningKey {
        SigningKey::from_bytes(self.derive("hongbao 2026 plan v1 session key"))
    }

    /// A random stream.
    pub fn stream(&self, purpose: Purpose, number: u64) -> Stream {
        Seed(self.derive(purpose.context())).stream(number)
    }
}
