//! Notes that came in with a search.

use sqlx::PgConnection;

use crate::core::note::NOTES_MAX;
use crate::exchange::Member;
use crate::store::error::{Error, failed};

/// Adds the notes of a member's lines, oldest first. Those of an architecture join what is
/// noted of it here, once each, as far as there is room.
pub(super) async fn notes(connection: &mut PgConnection, member: Member, lines: &str) -> Result<(), Error> {
    sqlx::query!(
        "with given as (
             select line.id, line.digest, note.author, note.text, note.create_time
             from jsonb_to_recordset($1::text::jsonb) as line (id uuid, digest text, notes jsonb)
             cross join lateral jsonb_to_recordset(line.notes) as note (
                 author text, text text, create_time timestamptz)
             where not exists (
                 select from note known
                 where known.architecture_digest = line.digest and known.author = note.author
                     and known.text = note.text and known.create_time = note.create_time
             )
         ), numbered as (
             select *, row_number() over (partition by id, digest order by create_time, author, text) as place
             from given
         )
         insert into note (search_id, job_id, architecture_digest, author, text, create_time)
         select case when $2 then id end, case when not $2 then id end, digest, author, text, create_time
         from numbered
         where place <= $3 - (select count(*) from note known where known.architecture_digest = numbered.digest)
         order by create_time, author, text",
        lines,
        member == Member::Search,
        NOTES_MAX
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("import notes"))
}
