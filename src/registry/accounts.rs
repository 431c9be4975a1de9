//! Who is asking: lenders, borrowers and hosts, each by a bearer token of its own. A token is shown once; what is
//! stored is its SHA-256, which for 256 random bits is as good as any slower hash.

use std::{io, sync::Arc};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::request::Parts,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{
    Registry,
    resource_db::{Principal, TokenDigest},
};
use crate::{
    api::{
        http::{Bearer, Peer, PeerCertificate},
        problem::{Code, Problem},
        registry::Account,
        secret::Secret,
    },
    domain::id::{BorrowerId, HostId, LenderId},
};

/// Says of whom it is, so that one found where it should not be tells what was lost.
pub(super) fn new_token(of: &str) -> Secret {
    Secret::new(format!("sublet_{of}_{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())))
}

pub(super) fn digest(token: &Secret) -> TokenDigest {
    Sha256::digest(token.reveal()).into()
}

/// A host, where the registry asks hosts for certificates: its token alone could have been stolen.
#[derive(Debug, Clone, Copy)]
pub(super) struct CertifiedHost;

impl<S: Sync> FromRequestParts<S> for CertifiedHost {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match parts.extensions.get::<ConnectInfo<Peer>>().map(|ConnectInfo(peer)| peer.certificate) {
            Some(PeerCertificate::NotAsked | PeerCertificate::Shown) => Ok(Self),
            Some(PeerCertificate::Missing) => Err(Problem::new(
                Code::HostCertificateNeeded,
                "hosts of this registry show a certificate: set registry.client_cert and registry.client_key",
            )),
            None => Err(Problem::internal(&io::Error::other("nobody is at the other end of the connection"))),
        }
    }
}

/// A valid token, for a call within its scope.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) token: Uuid,
    pub(super) principal: Principal,
    pub(super) expires_at: Option<Timestamp>,
}

impl FromRequestParts<Arc<Registry>> for Shown {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, registry: &Arc<Registry>) -> Result<Self, Problem> {
        let Bearer(token) = Bearer::from_request_parts(parts, registry).await?;
        let access = registry.db.access(digest(&token), registry.clock.now()).await?;
        let access =
            access.ok_or_else(|| Problem::new(Code::Unauthorized, "this registry knows no such token"))?;
        if access.is_blocked {
            return Err(Problem::new(Code::AccountBlocked, "ask whoever runs this registry"));
        }
        if !access.scope.allows(parts.method.as_str(), parts.uri.path()) {
            let detail = format!("this token's scope is {:?}; that needs another", access.scope.as_str());
            return Err(Problem::new(Code::Forbidden, detail));
        }
        Ok(Self { token: access.token, principal: access.principal, expires_at: access.expires_at })
    }
}

/// Whoever has a valid token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Anybody(pub(super) Principal);

impl FromRequestParts<Arc<Registry>> for Anybody {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, registry: &Arc<Registry>) -> Result<Self, Problem> {
        Shown::from_request_parts(parts, registry).await.map(|shown| Self(shown.principal))
    }
}

/// Who runs the registry, by an administrator's token.
#[derive(Debug, Clone, Copy)]
pub(super) struct OnlyAdministrator {
    pub(super) token: Uuid,
}

impl FromRequestParts<Arc<Registry>> for OnlyAdministrator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, registry: &Arc<Registry>) -> Result<Self, Problem> {
        let Shown { token, principal, .. } = Shown::from_request_parts(parts, registry).await?;
        match principal {
            Principal::Administrator => Ok(Self { token }),
            _ => Err(Problem::new(Code::Forbidden, "this is for an administrator's token")),
        }
    }
}

/// A lender, who sees its own hosts; none: an administrator, who sees all.
#[derive(Debug, Clone, Copy)]
pub(super) struct LenderOrAdministrator(pub(super) Option<LenderId>);

impl FromRequestParts<Arc<Registry>> for LenderOrAdministrator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, registry: &Arc<Registry>) -> Result<Self, Problem> {
        match Anybody::from_request_parts(parts, registry).await?.0 {
            Principal::Lender(lender) => Ok(Self(Some(lender))),
            Principal::Administrator => Ok(Self(None)),
            Principal::Borrower(_) | Principal::Host(_) => {
                Err(Problem::new(Code::Forbidden, "this is for a lender's or an administrator's token"))
            }
        }
    }
}

macro_rules! only {
    ($($(#[$doc:meta])* $name:ident($id:ty) $principal:ident $what:literal),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub(super) struct $name(pub(super) $id);

        impl FromRequestParts<Arc<Registry>> for $name {
            type Rejection = Problem;

            async fn from_request_parts(
                parts: &mut Parts,
                registry: &Arc<Registry>,
            ) -> Result<Self, Problem> {
                match Anybody::from_request_parts(parts, registry).await?.0 {
                    Principal::$principal(id) => Ok(Self(id)),
                    _ => Err(Problem::new(Code::Forbidden, concat!("this is for ", $what, " token"))),
                }
            }
        }
    )*};
}

only! {
    /// A borrower, by its token.
    OnlyBorrower(BorrowerId) Borrower "a borrower's",
    /// A lender, by its token.
    OnlyLender(LenderId) Lender "a lender's",
}

/// A host, by its own token, and by its certificate where the registry asks for one.
#[derive(Debug, Clone, Copy)]
pub(super) struct OnlyHost(HostId);

impl FromRequestParts<Arc<Registry>> for OnlyHost {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, registry: &Arc<Registry>) -> Result<Self, Problem> {
        let Anybody(principal) = Anybody::from_request_parts(parts, registry).await?;
        let Principal::Host(host) = principal else {
            return Err(Problem::new(Code::Forbidden, "this is for a host's own token"));
        };
        CertifiedHost::from_request_parts(parts, registry).await?;
        Ok(Self(host))
    }
}

impl OnlyHost {
    pub(super) fn id(self) -> HostId {
        self.0
    }
}

/// A borrower or a lender, by its token: whoever has money here.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnAccount(pub(super) Account);

impl FromRequestParts<Arc<Registry>> for OwnAccount {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, registry: &Arc<Registry>) -> Result<Self, Problem> {
        match Anybody::from_request_parts(parts, registry).await?.0 {
            Principal::Borrower(borrower) => Ok(Self(Account::Borrower(borrower))),
            Principal::Lender(lender) => Ok(Self(Account::Lender(lender))),
            Principal::Host(_) | Principal::Administrator => {
                Err(Problem::new(Code::Forbidden, "this is for a borrower's or a lender's token"))
            }
        }
    }
}

impl OnlyHost {
    /// A host's token is for what is its own; of other hosts it learns nothing.
    pub(super) fn must_be(self, host: HostId) -> Result<(), Problem> {
        if self.0 == host {
            Ok(())
        } else {
            Err(Problem::new(Code::NotFound, format!("the host of this token is not {host}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_say_of_whom_they_are() {
        let (one, other) = (new_token("lender"), new_token("lender"));
        assert!(one.reveal().starts_with("sublet_lender_") && one.reveal().len() == 14 + 43);
        assert_ne!(one, other);
        assert_ne!(digest(&one), digest(&other));
    }
}
