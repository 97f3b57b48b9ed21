//! The content of an attachment, from a member that has it to one that needs it.
//!
//! Invariant: what is answered is what the name says, or nothing.
//!
//! Not here: who asks whom and when (`attach`), the disk (`log::attachments`).

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use tokio::time::timeout;
use tonic::Status;
use world::GroupId;

use super::link::Link;
use crate::codec::{attachment_to_pb, pb};
use crate::limits::{
    ATTACHMENT_BYTES_MAX, ATTACHMENT_FETCH_DEADLINE, ATTACHMENT_PIECE_BYTES, ATTACHMENT_SPREAD_DEADLINE,
};
use crate::types::Attachment;

/// Pieces on their way to another member.
pub(crate) type Pieces = BoxStream<'static, Result<pb::AttachmentPiece, Status>>;

fn query(group: GroupId, attachment: &Attachment) -> pb::AttachmentQuery {
    pb::AttachmentQuery { group: group.0, attachment: Some(attachment_to_pb(attachment)) }
}

/// Fetches an attachment over `link`.
///
/// # Errors
/// Why it did not come, for people.
pub(crate) async fn fetch(link: &Link, group: GroupId, attachment: &Attachment) -> Result<Bytes, String> {
    let length = usize::try_from(attachment.bytes).unwrap_or(usize::MAX);
    if length > ATTACHMENT_BYTES_MAX {
        return Err(format!("{attachment} is larger than {ATTACHMENT_BYTES_MAX} bytes"));
    }
    let mut bulk = link.bulk.clone();
    let fetched = async {
        let answer = bulk.attachment(query(group, attachment)).await;
        link.heard(&answer);
        let mut pieces = answer.map_err(|status| status.to_string())?.into_inner();
        let mut content = BytesMut::with_capacity(length);
        while let Some(piece) = pieces.message().await.map_err(|status| status.to_string())? {
            if content.len() + piece.content.len() > length {
                return Err(format!("more than {attachment}"));
            }
            content.extend_from_slice(&piece.content);
        }
        Ok(content.freeze())
    };
    let content = timeout(ATTACHMENT_FETCH_DEADLINE, fetched)
        .await
        .map_err(|_| format!("{attachment} did not come in {ATTACHMENT_FETCH_DEADLINE:?}"))??;
    if Attachment::of(&content) != *attachment {
        return Err(format!("what came is not {attachment}"));
    }
    Ok(content)
}

/// Asks a member to fetch an attachment from here.
///
/// # Errors
/// Why it has not, for people.
pub(crate) async fn offer(link: &Link, group: GroupId, attachment: &Attachment) -> Result<(), String> {
    let mut bulk = link.bulk.clone();
    let answer = timeout(ATTACHMENT_SPREAD_DEADLINE, bulk.attach(query(group, attachment)).boxed());
    let answer = answer.await.map_err(|_| "no answer".to_owned())?;
    link.heard(&answer);
    answer.map(|_| ()).map_err(|status| status.to_string())
}

/// Cuts content into pieces.
pub(crate) fn pieces(content: Bytes) -> Pieces {
    stream::unfold(content, |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        let content = rest.split_to(rest.len().min(ATTACHMENT_PIECE_BYTES));
        Some((Ok(pb::AttachmentPiece { content }), rest))
    })
    .boxed()
}
