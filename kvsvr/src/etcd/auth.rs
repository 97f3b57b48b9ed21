//! The Auth service.
//!
//! Invariant: passwords leave this node only as hashes. What changes users and roles goes through
//! the log; what tells of them is read after a barrier, by who may.

use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::courier::Courier;
use crate::control_port::read_error;
use crate::group::read_with;
use crate::machine::control::access::Access;
use crate::machine::control::{Fault, auth};
use crate::outcome::CallError;
use crate::refusal::Refusal;
use crate::wire::etcdserverpb::auth_server::Auth;
use crate::wire::etcdserverpb::*;
use crate::wire::native::auth_change::{Change, Enable};
use crate::wire::native::control_command::Command;
use crate::wire::native::control_reply::Reply;
use crate::wire::native::{AuthChange, ControlCommand};

/// etcd's Auth service.
#[derive(Clone)]
pub struct AuthService {
    courier: Courier,
}

impl AuthService {
    /// A service that goes to the leader with changes.
    pub(crate) fn new(courier: Courier) -> AuthService {
        AuthService { courier }
    }

    async fn change(&self, metadata: &MetadataMap, change: Change) -> Result<Option<ResponseHeader>, Status> {
        let author = Some(self.courier.desk.author(metadata)?);
        let command = Some(Command::Auth(AuthChange { change: Some(change) }));
        match self.courier.propose(ControlCommand { command, author }).await? {
            Reply::Auth(changed) => {
                let header = ResponseHeader { revision: changed.revision, ..ResponseHeader::default() };
                Ok(Some(self.courier.stamped(Some(header))))
            }
            _ => Err(Status::internal("an answer of another kind")),
        }
    }

    /// Reads the auth store as `read` wishes, which checks the author as well.
    async fn read<R>(
        &self,
        metadata: &MetadataMap,
        read: impl FnOnce(&Access<'_>, &dyn replica::engine::View, &str) -> Result<R, Fault>,
    ) -> Result<(Option<ResponseHeader>, R), Status> {
        let caught_up = self.courier.port.group().read_barrier_anywhere().await;
        caught_up.map_err(|error| read_error(error).status())?;
        let author = self.courier.desk.author(metadata)?;
        let read = read_with(self.courier.port.group(), |view| {
            read(&Access::of(view, &author)?, view, &author.user)
        });
        let found = read.map_err(|fault| match fault {
            Fault::Refused(refusal) => CallError::Refused(refusal).status(),
            Fault::Engine(error) => CallError::Storage(error.to_string()).status(),
        })?;
        Ok((Some(self.courier.header()?), found))
    }
}

/// A change: the request's metadata, its conversion, and a response that is only a header.
macro_rules! change {
    ($self:ident, $request:ident, $change:expr, $response:ident) => {{
        let (metadata, _, request) = $request.into_parts();
        let header = $self.change(&metadata, $change(request)).await?;
        Ok(Response::new($response { header }))
    }};
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn auth_enable(
        &self,
        request: Request<AuthEnableRequest>,
    ) -> Result<Response<AuthEnableResponse>, Status> {
        let key = world::rng::secret_bytes().map_err(|error| Status::internal(error.to_string()))?;
        let token_key = bytes::Bytes::copy_from_slice(&key);
        change!(self, request, |_| Change::Enable(Enable { token_key }), AuthEnableResponse)
    }

    async fn auth_disable(
        &self,
        request: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        change!(self, request, Change::Disable, AuthDisableResponse)
    }

    async fn auth_status(
        &self,
        request: Request<AuthStatusRequest>,
    ) -> Result<Response<AuthStatusResponse>, Status> {
        let read = |access: &Access<'_>, view: &dyn replica::engine::View, _: &str| {
            access.check_admin()?;
            Ok(auth::meta(view)?)
        };
        let (header, meta) = self.read(request.metadata(), read).await?;
        let (enabled, auth_revision) = (meta.enabled, meta.revision);
        Ok(Response::new(AuthStatusResponse { header, enabled, auth_revision }))
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let AuthenticateRequest { name, password } = request.into_inner();
        let token = self.courier.desk.authenticate(&name, password).await?;
        Ok(Response::new(AuthenticateResponse { header: Some(self.courier.header()?), token }))
    }

    async fn user_add(
        &self,
        request: Request<AuthUserAddRequest>,
    ) -> Result<Response<AuthUserAddResponse>, Status> {
        let (metadata, extensions, mut added) = request.into_parts();
        if !added.options.is_some_and(|options| options.no_password) {
            added.hashed_password =
                self.courier.desk.hash_password(std::mem::take(&mut added.password)).await?;
        }
        added.password.clear();
        let request = Request::from_parts(metadata, extensions, added);
        change!(self, request, Change::UserAdd, AuthUserAddResponse)
    }

    async fn user_get(
        &self,
        request: Request<AuthUserGetRequest>,
    ) -> Result<Response<AuthUserGetResponse>, Status> {
        let (metadata, _, AuthUserGetRequest { name }) = request.into_parts();
        let read = |access: &Access<'_>, view: &dyn replica::engine::View, author: &str| {
            // Users may look at themselves.
            if author.is_empty() || author != name {
                access.check_admin()?;
            }
            Ok(auth::user(view, &name)?.ok_or(Refusal::UserNotFound)?.roles)
        };
        let (header, roles) = self.read(&metadata, read).await?;
        Ok(Response::new(AuthUserGetResponse { header, roles }))
    }

    async fn user_list(
        &self,
        request: Request<AuthUserListRequest>,
    ) -> Result<Response<AuthUserListResponse>, Status> {
        let read = |access: &Access<'_>, view: &dyn replica::engine::View, _: &str| {
            access.check_admin()?;
            Ok(auth::users(view)?)
        };
        let (header, users) = self.read(request.metadata(), read).await?;
        Ok(Response::new(AuthUserListResponse { header, users }))
    }

    async fn user_delete(
        &self,
        request: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        change!(self, request, Change::UserDelete, AuthUserDeleteResponse)
    }

    async fn user_change_password(
        &self,
        request: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        let (metadata, extensions, mut changed) = request.into_parts();
        changed.hashed_password =
            self.courier.desk.hash_password(std::mem::take(&mut changed.password)).await?;
        let request = Request::from_parts(metadata, extensions, changed);
        change!(self, request, Change::UserChangePassword, AuthUserChangePasswordResponse)
    }

    async fn user_grant_role(
        &self,
        request: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        change!(self, request, Change::UserGrantRole, AuthUserGrantRoleResponse)
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        change!(self, request, Change::UserRevokeRole, AuthUserRevokeRoleResponse)
    }

    async fn role_add(
        &self,
        request: Request<AuthRoleAddRequest>,
    ) -> Result<Response<AuthRoleAddResponse>, Status> {
        change!(self, request, Change::RoleAdd, AuthRoleAddResponse)
    }

    async fn role_get(
        &self,
        request: Request<AuthRoleGetRequest>,
    ) -> Result<Response<AuthRoleGetResponse>, Status> {
        let (metadata, _, AuthRoleGetRequest { role }) = request.into_parts();
        let read = |access: &Access<'_>, view: &dyn replica::engine::View, author: &str| {
            // Users may look at their roles.
            let holder = auth::user(view, author)?;
            if !holder.is_some_and(|holder| holder.roles.contains(&role)) {
                access.check_admin()?;
            }
            Ok(auth::role(view, &role)?.ok_or(Refusal::RoleNotFound)?.permissions)
        };
        let (header, perm) = self.read(&metadata, read).await?;
        Ok(Response::new(AuthRoleGetResponse { header, perm }))
    }

    async fn role_list(
        &self,
        request: Request<AuthRoleListRequest>,
    ) -> Result<Response<AuthRoleListResponse>, Status> {
        let read = |access: &Access<'_>, view: &dyn replica::engine::View, _: &str| {
            access.check_admin()?;
            Ok(auth::roles(view)?)
        };
        let (header, roles) = self.read(request.metadata(), read).await?;
        Ok(Response::new(AuthRoleListResponse { header, roles }))
    }

    async fn role_delete(
        &self,
        request: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        change!(self, request, Change::RoleDelete, AuthRoleDeleteResponse)
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        change!(self, request, Change::RoleGrantPermission, AuthRoleGrantPermissionResponse)
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        change!(self, request, Change::RoleRevokePermission, AuthRoleRevokePermissionResponse)
    }
}
