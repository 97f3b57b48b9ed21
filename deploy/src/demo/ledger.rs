//! The books as they stand at the end, read row by row: what the crowd's memory is compared with.

use std::collections::BTreeMap;

use kvsvr::api::Kv;
use payment::keyspace;
use payment::rejection::Rejection;
use payment::row::Row;
use ticket::id::{PACKET_ID_LEN, PacketId, UserId};
use ticket::manifest::Manifest;

use crate::failure::{Context, Exit, Failure};

/// Pairs read at a time.
const PAGE: usize = 1_000;

/// Every row and rejection of the build.
#[derive(Debug, Default)]
pub struct Books {
    /// By packet.
    pub rows: BTreeMap<PacketId, Row>,
    /// Openings that got no row, by packet and user.
    pub rejections: BTreeMap<(PacketId, UserId), Rejection>,
}

impl Books {
    /// Reads them all.
    ///
    /// # Errors
    /// When the KV does not answer or holds what cannot be read.
    pub async fn read(kv: &dyn Kv, manifest: &Manifest) -> Result<Books, Failure> {
        let mut books = Books::default();
        let tag = manifest.build.tag();
        for group in 0..kv.data_groups() {
            for (key, value) in scan(kv, group, &[keyspace::ROW, &tag].concat()).await? {
                let packet = packet_of(&key, keyspace::ROW)?;
                let row = Row::decode(packet, &value).context(Exit::Unverified, "reading a row")?;
                books.rows.insert(packet, row);
            }
            for (key, value) in scan(kv, group, &[keyspace::REJECTED, &tag].concat()).await? {
                let packet = packet_of(&key, keyspace::REJECTED)?;
                let user =
                    key.get(keyspace::REJECTED.len() + PACKET_ID_LEN..).and_then(|raw| raw.try_into().ok());
                let user = user.map(|raw| UserId(u64::from_be_bytes(raw)));
                let user =
                    user.ok_or_else(|| Failure::new(Exit::Unverified, "a rejection's key is cut short"))?;
                let rejection = Rejection::decode(packet, user, &value)
                    .context(Exit::Unverified, "reading a rejection")?;
                books.rejections.insert((packet, user), rejection);
            }
        }
        Ok(books)
    }
}

async fn scan(kv: &dyn Kv, group: u32, prefix: &[u8]) -> Result<Vec<(bytes::Bytes, bytes::Bytes)>, Failure> {
    let mut pairs: Vec<(bytes::Bytes, bytes::Bytes)> = Vec::new();
    loop {
        let after = pairs.last().map(|(key, _)| key.clone());
        let page = kv.scan(group, prefix, after.as_deref(), PAGE).await?;
        if page.is_empty() {
            return Ok(pairs);
        }
        pairs.extend(page);
    }
}

fn packet_of(key: &[u8], prefix: &[u8]) -> Result<PacketId, Failure> {
    let raw = key.get(prefix.len()..prefix.len() + PACKET_ID_LEN).and_then(|raw| raw.try_into().ok());
    raw.map(PacketId::from_bytes).ok_or_else(|| Failure::new(Exit::Unverified, "a row's key is cut short"))
}
