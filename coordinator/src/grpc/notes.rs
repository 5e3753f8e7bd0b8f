//! Notes in requests.

use tonic::Status;

use super::search_service::request_id_if_given;
use super::status::invalid_field;
use super::{Api, values};
use crate::core::note::{AUTHOR_CHARS_MAX, TEXT_CHARS_MAX};
use crate::store::notes::{NewNote, Subject, add};

impl Api {
    /// Adds a note, checked, to what it is about.
    pub(super) async fn add_note(
        &self,
        subject: Subject,
        text: String,
        author: String,
        request_id: String,
    ) -> Result<(), Status> {
        let note = NewNote {
            subject,
            author: filled("author", &author, AUTHOR_CHARS_MAX)?,
            text: filled("text", &text, TEXT_CHARS_MAX)?,
            request_id: request_id_if_given(request_id)?,
        };
        self.write(move |pool| async move { add(&pool, &note).await }).await
    }
}

fn filled(field: &str, text: &str, chars_max: usize) -> Result<String, Status> {
    if text.trim().is_empty() {
        return Err(invalid_field(field, format!("is missing; give 1 to {chars_max} characters")));
    }
    values::checked(field, text.trim().to_owned(), chars_max)
}
