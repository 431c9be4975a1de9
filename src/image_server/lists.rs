//! Lists of names, in pages: repositories, and a repository's tags.

use std::sync::Arc;

use axum::{
    Json,
    extract::Query,
    http::{HeaderValue, Uri, header},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};

use super::{
    ImageServer,
    refusal::{Code, Refusal},
};
use crate::domain::image::reference::RepositoryName;

/// What of a list is asked for: so many, after this one.
#[derive(Debug, Default, Deserialize)]
struct Page {
    n: Option<u32>,
    last: Option<String>,
}

#[derive(Serialize)]
struct Catalog {
    repositories: Vec<String>,
}

#[derive(Serialize)]
struct Tags {
    name: RepositoryName,
    tags: Vec<String>,
}

impl ImageServer {
    pub(super) async fn catalog(self: &Arc<Self>, uri: &Uri) -> Result<Response, Refusal> {
        let page = Page::read(uri)?;
        let found = self.blocking(|server| {
            let failed = |error| Refusal::failed(Code::Unknown, "the list of repositories", &error);
            server.directory.repositories().map_err(failed)
        });
        let all = found.await?.into_iter().map(String::from).collect();
        let (repositories, next) = page.of(all);
        Ok(linked(Json(Catalog { repositories }).into_response(), uri, next))
    }

    pub(super) async fn tags(self: &Arc<Self>, name: RepositoryName, uri: &Uri) -> Result<Response, Refusal> {
        let page = Page::read(uri)?;
        let of = name.clone();
        let index = self.blocking(move |server| server.directory.index(&of)).await?;
        let all = index.tags().iter().map(ToString::to_string).collect();
        let (tags, next) = page.of(all);
        Ok(linked(Json(Tags { name, tags }).into_response(), uri, next))
    }
}

impl Page {
    fn read(uri: &Uri) -> Result<Self, Refusal> {
        Query::try_from_uri(uri).map(|Query(page)| page).map_err(|error| {
            Refusal::new(Code::PaginationNumberInvalid, format!("the query: {}", error.body_text()))
        })
    }

    /// This page of a sorted list, and how the next one is asked for, where there is one.
    fn of(&self, mut all: Vec<String>) -> (Vec<String>, Option<String>) {
        if let Some(last) = &self.last {
            all.retain(|name| name > last);
        }
        let Some(most) = self.n.and_then(|n| usize::try_from(n).ok()) else { return (all, None) };
        let is_more = all.len() > most;
        all.truncate(most);
        let next = all.last().filter(|_| is_more).map(|last| format!("n={most}&last={last}"));
        (all, next)
    }
}

fn linked(mut response: Response, uri: &Uri, next: Option<String>) -> Response {
    let link = next.map(|next| format!("<{}?{next}>; rel=\"next\"", uri.path()));
    if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_one_another_to_the_end() {
        let all = || ["a", "b", "c"].map(str::to_owned).to_vec();
        let page = |n, last: Option<&str>| Page { n, last: last.map(str::to_owned) }.of(all());
        assert_eq!(page(None, None), (all(), None));
        assert_eq!(
            page(Some(2), None),
            (vec!["a".to_owned(), "b".to_owned()], Some("n=2&last=b".to_owned()))
        );
        assert_eq!(page(Some(2), Some("b")), (vec!["c".to_owned()], None));
        assert_eq!(page(Some(3), None), (all(), None));
        assert_eq!(page(Some(0), None), (vec![], None));
        assert_eq!(page(None, Some("z")), (vec![], None));
        assert_eq!(page(None, Some("aa")).0, ["b", "c"]);
    }
}
