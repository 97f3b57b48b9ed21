//! Why the control group refuses a request: one gRPC code and one text each.
//!
//! Invariant: codes and texts are etcd's, to the letter. Its clients map errors by their text.
//!
//! Not here: errors of the network and of consensus (`etcd::status`).

use tonic::{Code, Status};

pub use crate::wire::native::Refusal;

impl Refusal {
    /// The gRPC code etcd answers with.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Refusal::Compacted | Refusal::FutureRevision | Refusal::LeaseTtlTooLarge => Code::OutOfRange,
            Refusal::LeaseNotFound => Code::NotFound,
            Refusal::LeaseExists
            | Refusal::RootUserNotExist
            | Refusal::RootRoleNotExist
            | Refusal::UserAlreadyExist
            | Refusal::UserNotFound
            | Refusal::RoleAlreadyExist
            | Refusal::RoleNotFound
            | Refusal::RoleNotGranted
            | Refusal::PermissionNotGranted
            | Refusal::AuthNotEnabled => Code::FailedPrecondition,
            Refusal::PermissionDenied => Code::PermissionDenied,
            Refusal::InvalidAuthToken => Code::Unauthenticated,
            Refusal::NoSpace => Code::ResourceExhausted,
            Refusal::Corrupt => Code::DataLoss,
            Refusal::Unspecified => Code::Unknown,
            _ => Code::InvalidArgument,
        }
    }

    /// The text etcd answers with.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Refusal::Unspecified => "etcdserver: request refused",
            Refusal::EmptyKey => "etcdserver: key is not provided",
            Refusal::KeyNotFound => "etcdserver: key not found",
            Refusal::ValueProvided => "etcdserver: value is provided",
            Refusal::LeaseProvided => "etcdserver: lease is provided",
            Refusal::TooManyOps => "etcdserver: too many operations in txn request",
            Refusal::DuplicateKey => "etcdserver: duplicate key given in txn request",
            Refusal::InvalidSortOption => "etcdserver: invalid sort option",
            Refusal::Compacted => "etcdserver: mvcc: required revision has been compacted",
            Refusal::FutureRevision => "etcdserver: mvcc: required revision is a future revision",
            Refusal::LeaseNotFound => "etcdserver: requested lease not found",
            Refusal::LeaseExists => "etcdserver: lease already exists",
            Refusal::LeaseTtlTooLarge => "etcdserver: too large lease TTL",
            Refusal::NoSpace => "etcdserver: mvcc: database space exceeded",
            Refusal::Corrupt => "etcdserver: corrupt cluster",
            Refusal::RootUserNotExist => "etcdserver: root user does not exist",
            Refusal::RootRoleNotExist => "etcdserver: root user does not have root role",
            Refusal::UserAlreadyExist => "etcdserver: user name already exists",
            Refusal::UserEmpty => "etcdserver: user name is empty",
            Refusal::UserNotFound => "etcdserver: user name not found",
            Refusal::RoleAlreadyExist => "etcdserver: role name already exists",
            Refusal::RoleNotFound => "etcdserver: role name not found",
            Refusal::RoleEmpty => "etcdserver: role name is empty",
            Refusal::PermissionNotGiven => "etcdserver: permission not given",
            Refusal::PermissionDenied => "etcdserver: permission denied",
            Refusal::RoleNotGranted => "etcdserver: role is not granted to the user",
            Refusal::PermissionNotGranted => "etcdserver: permission is not granted to the role",
            Refusal::AuthNotEnabled => "etcdserver: authentication is not enabled",
            Refusal::InvalidAuthToken => "etcdserver: invalid auth token",
            Refusal::InvalidAuthMgmt => "etcdserver: invalid auth management",
            Refusal::AuthOldRevision => "etcdserver: revision of auth store is old",
            Refusal::AuthFailed => "etcdserver: authentication failed, invalid user ID or password",
            Refusal::RequestTooLarge => "etcdserver: request is too large",
        }
    }

    /// Both as a gRPC status.
    #[must_use]
    pub fn status(self) -> Status {
        Status::new(self.code(), self.text())
    }
}
