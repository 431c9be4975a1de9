//! Who we are to a registry: a name and a password, or a token that it has us fetch elsewhere with them.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::{
    Method, Response,
    header::{HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use thiserror::Error;

use super::{Access, ImageClientError, ImageRegistry, REFUSAL_MAX_BYTES, What};
use crate::{api::secret::Secret, domain::image::reference::RepositoryName};

/// Who we are: `USER:PASSWORD`.
#[derive(Debug, Clone)]
pub struct Credentials(Secret);

#[derive(Debug, Error, PartialEq, Eq)]
#[error("credentials are one line, USER:PASSWORD")]
pub struct BadCredentials;

impl TryFrom<Secret> for Credentials {
    type Error = BadCredentials;

    fn try_from(secret: Secret) -> Result<Self, BadCredentials> {
        let is_pair = secret.reveal().split_once(':').is_some_and(|(user, _)| !user.is_empty());
        if is_pair && !secret.reveal().contains('\n') { Ok(Self(secret)) } else { Err(BadCredentials) }
    }
}

impl Credentials {
    fn basic(&self) -> Result<HeaderValue, ImageClientError> {
        header(&format!("Basic {}", BASE64_STANDARD.encode(self.0.reveal())))
    }
}

/// What to say who we are, once a registry has asked for it.
#[derive(Debug)]
pub(super) struct Authorizations {
    credentials: Option<Credentials>,
    known: Mutex<HashMap<(RepositoryName, Access), HeaderValue>>,
}

impl Authorizations {
    pub(super) fn new(credentials: Option<Credentials>) -> Self {
        Self { credentials, known: Mutex::default() }
    }

    pub(super) fn known(&self, name: &RepositoryName, access: Access) -> Option<HeaderValue> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(name.clone(), access)).cloned()
    }

    fn learn(&self, name: &RepositoryName, access: Access, authorization: &HeaderValue) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((name.clone(), access), authorization.clone());
    }
}

/// The token server's answer; which of the two names it has depends on who wrote it.
#[derive(Deserialize)]
struct Token {
    #[serde(alias = "access_token")]
    token: Secret,
}

impl ImageRegistry {
    /// What to say, by what the registry has asked for. None: we have nothing to say.
    pub(super) async fn authenticate(
        &self,
        response: &Response,
        name: &RepositoryName,
        access: Access,
    ) -> Result<Option<HeaderValue>, ImageClientError> {
        let challenge = response.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        let challenge = challenge.unwrap_or_default();
        let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
        let authorization = match &self.authorizations.credentials {
            Some(credentials) if scheme.eq_ignore_ascii_case("basic") => {
                self.confide()?;
                credentials.basic()?
            }
            None if scheme.eq_ignore_ascii_case("basic") => return Ok(None),
            credentials if scheme.eq_ignore_ascii_case("bearer") => {
                self.token(&parse(parameters), credentials.as_ref(), name, access).await?
            }
            _ => {
                let challenge = challenge.chars().take(128).collect();
                return Err(ImageClientError::Challenge { server: self.base.clone(), challenge });
            }
        };
        self.authorizations.learn(name, access, &authorization);
        Ok(Some(authorization))
    }

    /// A token from where the registry says that there are some.
    async fn token(
        &self,
        parameters: &HashMap<String, String>,
        credentials: Option<&Credentials>,
        name: &RepositoryName,
        access: Access,
    ) -> Result<HeaderValue, ImageClientError> {
        let unknown =
            || ImageClientError::Challenge { server: self.base.clone(), challenge: "Bearer".to_owned() };
        let realm = parameters.get("realm").ok_or_else(unknown)?;
        // It is as far away as the registry, and no less confidential.
        let is_fit =
            realm.starts_with("https://") || (!self.address.is_tls() && realm.starts_with("http://"));
        let actions = if access == Access::Push { "pull,push" } else { "pull" };
        let scope = format!("repository:{name}:{actions}");
        let mut query = vec![("scope", scope.as_str())];
        query.extend(parameters.get("service").map(|service| ("service", service.as_str())));
        let url =
            reqwest::Url::parse_with_params(realm, &query).ok().filter(|_| is_fit).ok_or_else(unknown)?;
        let mut request = self.request_to(Method::GET, url.as_str());
        if let Some(credentials) = credentials {
            self.confide()?;
            request = request.header(reqwest::header::AUTHORIZATION, credentials.basic()?);
        }
        let (response, what) = (self.answer(request).await?, What::Token(name.clone()));
        if !response.status().is_success() {
            return Err(self.refusal(response, what).await);
        }
        let body = self.whole(response, &what, REFUSAL_MAX_BYTES).await?;
        let Token { token } = serde_json::from_slice(&body)?;
        header(&format!("Bearer {}", token.reveal()))
    }

    /// Whether it may be told a secret.
    fn confide(&self) -> Result<(), ImageClientError> {
        if self.address.is_confidential() {
            return Ok(());
        }
        Err(ImageClientError::PlainSecret(self.base.clone()))
    }
}

fn header(text: &str) -> Result<HeaderValue, ImageClientError> {
    let mut value = HeaderValue::from_str(text).map_err(ImageClientError::Credentials)?;
    value.set_sensitive(true);
    Ok(value)
}

/// `name="value"`, separated by commas (RFC 9110, 11.2); commas may be within the quotes.
fn parse(parameters: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut rest = parameters;
    while let Some((name, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"').and_then(|quoted| quoted.split_once('"')) {
            Some((value, next)) => (value, next),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.insert(name.trim().to_ascii_lowercase(), value.to_owned());
        rest = next.trim_start().trim_start_matches(',');
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_taken_apart_with_commas_in_its_values() {
        let found = parse(r#"realm="https://auth/token",service="reg", scope="repository:a:pull,push",x=1"#);
        assert_eq!(found["realm"], "https://auth/token");
        assert_eq!(found["service"], "reg");
        assert_eq!(found["scope"], "repository:a:pull,push");
        assert_eq!(found["x"], "1");
        assert!(parse("nothing").is_empty());
    }

    #[test]
    fn credentials_are_a_pair_and_are_not_shown() {
        let good = Credentials::try_from(Secret::new("bob:hunter2")).unwrap();
        assert!(!format!("{good:?} {:?}", good.basic().unwrap()).contains("hunter2"));
        assert_eq!(good.basic().unwrap().to_str().unwrap(), "Basic Ym9iOmh1bnRlcjI=");
        for wrong in ["", "bob", ":x", "bob:x\ny"] {
            assert_eq!(Credentials::try_from(Secret::new(wrong)).unwrap_err(), BadCredentials);
        }
    }
}
