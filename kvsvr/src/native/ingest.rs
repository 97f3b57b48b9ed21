//! Taking in a sorted file and proposing it.
//!
//! Invariant: nothing is proposed that is not, byte for byte, the file that its sender hashed, and well formed.
//!
//! Not here: how it comes to the other members (`replica::attach`).

use bytes::{Bytes, BytesMut};
use prost::Message;
use tonic::{Status, Streaming};

use super::NativeService;
use crate::control_port::propose_error;
use crate::limits::INGEST_FILE_BYTES;
use crate::machine::encode_command;
use crate::outcome::CallError;
use crate::sorted;
use crate::wire::native::data_command::Ingest;
use crate::wire::native::ingest_part::{Header, Part};
use crate::wire::native::{DataCommand, IngestPart, IngestReply};

const _: () = assert!(INGEST_FILE_BYTES <= replica::limits::ATTACHMENT_BYTES_MAX);

impl NativeService {
    pub(super) async fn ingest_file(&self, mut parts: Streaming<IngestPart>) -> Result<IngestReply, Status> {
        let header = match next(&mut parts).await? {
            Some(Part::Header(header)) => header,
            _ => return Err(invalid("an ingest begins with its header")),
        };
        let group = self.group(header.group).map_err(|error| error.status())?;
        let file = receive(&header, &mut parts).await?;
        sorted::parse(&file).map_err(|reason| invalid(&reason))?;
        let command = encode_command(&DataCommand { ingest: Some(Ingest {}), ..DataCommand::default() });
        let reply = group.propose_attached(command, file).await;
        let reply = reply.map_err(|error| propose_error(error).status())?;
        IngestReply::decode(reply)
            .map_err(|error| CallError::Unknown(format!("the machine's reply: {error}")).status())
    }
}

async fn receive(header: &Header, parts: &mut Streaming<IngestPart>) -> Result<Bytes, Status> {
    let length = usize::try_from(header.bytes).unwrap_or(usize::MAX);
    if length > INGEST_FILE_BYTES {
        return Err(invalid(&format!("a file is at most {INGEST_FILE_BYTES} bytes long, this one {length}")));
    }
    let mut file = BytesMut::with_capacity(length);
    while let Some(part) = next(parts).await? {
        let Part::Piece(piece) = part else { return Err(invalid("a second header")) };
        if file.len() + piece.len() > length {
            return Err(invalid("more than the header says"));
        }
        file.extend_from_slice(&piece);
    }
    if blake3::hash(&file).as_bytes()[..] != header.hash[..] {
        return Err(invalid("the file is not what the header says: its hash differs"));
    }
    Ok(file.freeze())
}

async fn next(parts: &mut Streaming<IngestPart>) -> Result<Option<Part>, Status> {
    let Some(part) = parts.message().await? else { return Ok(None) };
    part.part.map(Some).ok_or_else(|| invalid("a part of no known kind"))
}

fn invalid(reason: &str) -> Status {
    CallError::Invalid(reason.to_owned()).status()
}
