//! From whom to whom a call goes, and the refusal of what is meant for another.
//!
//! ```text
//!   metadata   x-hongbao-cluster-bin   the cluster's name
//!              x-hongbao-from          Raft id, 16 hex digits
//!              x-hongbao-to            Raft id, 16 hex digits; absent only when asking who is there
//! ```
//! A Raft id names a node and its disk. The members of a group are such ids, agreed on in its log;
//! so a node that comes back with another disk is asked for nothing and counts for nothing: what is
//! sent to the old disk is refused by the new one.
//!
//! Invariant: nothing reaches a group that was not sent to this very disk from this very cluster.
//!
//! Not here: whether the sender is a member; Raft decides that by votes and logs, because who lags
//! may not know the newest members yet.

use tonic::metadata::{Ascii, Binary, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::identity::Identity;
use crate::member_id::MemberId;

const CLUSTER: &str = "x-hongbao-cluster-bin";
const FROM: &str = "x-hongbao-from";
const TO: &str = "x-hongbao-to";

/// Written on every call over one link.
#[derive(Clone)]
pub(crate) struct Envelope {
    cluster: MetadataValue<Binary>,
    from: MetadataValue<Ascii>,
    to: Option<MetadataValue<Ascii>>,
}

fn id_value(member: MemberId) -> MetadataValue<Ascii> {
    let text = format!("{:016x}", member.raft_id());
    MetadataValue::try_from(text).expect("hex digits are ASCII")
}

impl Envelope {
    pub(super) fn new(own: &Identity, to: Option<MemberId>) -> Envelope {
        Envelope {
            cluster: MetadataValue::from_bytes(own.cluster.as_bytes()),
            from: id_value(own.member),
            to: to.map(id_value),
        }
    }
}

impl Interceptor for Envelope {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert_bin(CLUSTER, self.cluster.clone());
        metadata.insert(FROM, self.from.clone());
        if let Some(to) = &self.to {
            metadata.insert(TO, to.clone());
        }
        Ok(request)
    }
}

fn member(metadata: &MetadataMap, key: &str) -> Option<MemberId> {
    let text = metadata.get(key)?.to_str().ok()?;
    u64::from_str_radix(text, 16).ok().and_then(MemberId::from_raft_id)
}

/// Takes a call from a member of the same cluster, whoever it is meant for; answers the sender.
pub(super) fn admit_anybody(own: &Identity, metadata: &MetadataMap) -> Result<MemberId, Status> {
    let from = member(metadata, FROM)
        .ok_or_else(|| Status::invalid_argument("the call does not say which member it comes from"))?;
    let cluster = metadata.get_bin(CLUSTER).and_then(|value| value.to_bytes().ok()).unwrap_or_default();
    if cluster.as_ref() != own.cluster.as_bytes() {
        return Err(Status::failed_precondition(format!(
            "{} belongs to cluster {:?}, and the call comes from {from} of cluster {:?}: one of the two has \
             the wrong peers address in its cluster.toml",
            own.member,
            own.cluster,
            String::from_utf8_lossy(&cluster)
        )));
    }
    Ok(from)
}

/// Takes a call that is meant for this member; answers the sender.
pub(super) fn admit(own: &Identity, metadata: &MetadataMap) -> Result<MemberId, Status> {
    let from = admit_anybody(own, metadata)?;
    let to = member(metadata, TO)
        .ok_or_else(|| Status::invalid_argument("the call does not say which member it is meant for"))?;
    if to == own.member {
        return Ok(from);
    }
    let cure = if to.node == own.member.node {
        format!("if that disk is gone, run `hongbao kv member replace {}`", to.node)
    } else {
        "two nodes have exchanged their addresses in cluster.toml".to_owned()
    };
    Err(Status::failed_precondition(format!("this is {}, not {to}: {cure}", own.member)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member_id::DiskNo;

    fn identity(cluster: &str, node: &str, disk: u64) -> Identity {
        let member =
            MemberId { node: node.parse().expect("a node"), disk: DiskNo::new(disk).expect("48 bits") };
        Identity { cluster: cluster.to_owned(), member, starts: 1 }
    }

    fn sent(from: &Identity, to: Option<MemberId>) -> MetadataMap {
        let request = Envelope::new(from, to).call(Request::new(())).expect("written");
        request.metadata().clone()
    }

    fn check(from: &Identity, to: Option<MemberId>, refused_with: Option<&str>) {
        let own = identity("spring", "c1", 7);
        let admitted = admit(&own, &sent(from, to));
        match (admitted, refused_with) {
            (Ok(sender), None) => assert_eq!(sender, from.member),
            (Err(status), Some(part)) => {
                assert!(status.message().contains(part), "{}", status.message());
            }
            (admitted, _) => panic!("{admitted:?} instead of {refused_with:?}"),
        }
    }

    #[test]
    fn only_what_is_meant_for_this_disk_of_this_cluster_is_taken() {
        let own = identity("spring", "c1", 7).member;
        let old_disk = identity("spring", "c1", 6).member;
        let elsewhere = identity("spring", "b1", 7).member;
        check(&identity("spring", "a1", 1), Some(own), None);
        check(&identity("spring", "a1", 1), Some(old_disk), Some("kv member replace c1"));
        check(&identity("spring", "a1", 1), Some(elsewhere), Some("exchanged their addresses"));
        check(&identity("autumn", "a1", 1), Some(own), Some("\"autumn\""));
        check(&identity("spring", "a1", 1), None, Some("which member it is meant for"));
        assert!(admit(&identity("spring", "c1", 7), &MetadataMap::new()).is_err());
        assert!(admit_anybody(&identity("春节", "c1", 7), &sent(&identity("春节", "a1", 1), None)).is_ok());
    }
}
