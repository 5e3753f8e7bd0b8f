//! Who may do what in a project: what a token permits in all of them, what a member's role
//! permits in one, and what is whose.
//!
//! | a caller whose token says | in a project without members | with members |
//! |---|---|---|
//! | viewer | viewer | viewer |
//! | submitter | submitter | its role there; viewer if it is none of them |
//! | operator | operator | operator |

use super::access::Role;
use super::identity::Identity;
use super::rights::{Caller, NOBODY};

const NAME_CHARS_MAX: usize = 64;

/// What a project says of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has no members: what a token permits holds in it.
    Open,
    Member(Role),
    /// It has members, and the caller is none of them.
    Outsider,
}

/// Whose something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Belongs {
    /// The name of whoever submitted it; none if nobody known did.
    pub owner: Option<String>,
    pub project: String,
    /// What the project says of whoever asks.
    pub standing: Standing,
}

/// What a caller may do in a project; none for whoever is no user.
pub fn role_in(caller: &Caller, standing: Standing) -> Option<Role> {
    let role = match caller {
        Caller::Trusted => Role::Operator,
        Caller::Known(Identity::User { role, .. }) => *role,
        Caller::Known(Identity::Worker { .. } | Identity::Coordinator { .. }) | Caller::Nobody => {
            return None;
        }
    };
    Some(match (role, standing) {
        (Role::Submitter, Standing::Member(there)) => there,
        (Role::Submitter, Standing::Outsider) => Role::Viewer,
        (role, _) => role,
    })
}

/// That somebody whom the table lets submit may do so in this project.
///
/// # Errors
/// The project has members, and the caller is none of those who submit.
pub fn may_submit(caller: &Caller, project: &str, standing: Standing) -> Result<(), NotMember> {
    match role_in(caller, standing) {
        Some(Role::Submitter | Role::Operator) => Ok(()),
        Some(Role::Viewer) | None => Err(NotMember::new(caller, project, standing)),
    }
}

/// That somebody whom the table lets change what is their own changes nothing of others,
/// unless they are an operator, be it of the project alone.
///
/// # Errors
/// Why not.
pub fn may_change(caller: &Caller, thing: &Belongs) -> Result<(), NotTheirs> {
    let is_own = thing.owner.is_some() && thing.owner.as_deref() == caller.owner();
    match role_in(caller, thing.standing) {
        Some(Role::Operator) => Ok(()),
        Some(Role::Submitter) if is_own => Ok(()),
        Some(Role::Viewer) if thing.standing != Standing::Open => {
            Err(NotMember::new(caller, &thing.project, thing.standing).into())
        }
        _ => Err(NotOwner { caller: name(caller).to_owned(), owner: thing.owner.clone() }.into()),
    }
}

fn name(caller: &Caller) -> &str {
    match caller {
        Caller::Known(identity) => identity.name(),
        Caller::Trusted | Caller::Nobody => NOBODY,
    }
}

/// Why somebody may not change something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub enum NotTheirs {
    Owner(#[from] NotOwner),
    Member(#[from] NotMember),
}

/// A submitter changes what somebody else submitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} submitted it, so '{caller}' may not change it; an operator may",
    owner.as_ref().map_or("nobody known".to_owned(), |owner| format!("'{owner}'"))
)]
pub struct NotOwner {
    pub caller: String,
    pub owner: Option<String>,
}

/// Somebody changes something in a project of others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{caller}' is {} of project '{project}' and may change nothing in it; an operator permits it with \
     `cakes project grant {project} --role submitter --to {caller}`",
    role.map_or("no member".to_owned(), |role| format!("a {role}"))
)]
pub struct NotMember {
    pub caller: String,
    pub project: String,
    /// In the project.
    pub role: Option<Role>,
}

impl NotMember {
    fn new(caller: &Caller, project: &str, standing: Standing) -> Self {
        let role = match standing {
            Standing::Member(role) => Some(role),
            Standing::Open | Standing::Outsider => None,
        };
        NotMember { caller: name(caller).to_owned(), project: project.to_owned(), role }
    }
}

/// Checks the name of somebody who is to be a member: any that a token or a certificate of a
/// person can have.
///
/// # Errors
/// What a name is.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    let fits = (1..=NAME_CHARS_MAX).contains(&name.len())
        && name.bytes().all(is_known)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric());
    if fits {
        return Ok(());
    }
    let shown: String = name.chars().take(NAME_CHARS_MAX + 1).collect();
    Err(format!(
        "'{shown}' is nobody's name: give that of a token or a certificate, 1 to {NAME_CHARS_MAX} of A-Z, a-z, 0-9, \
         '.', '_', '@' and '-', the first a letter or a digit"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDINGS: [Standing; 5] = [
        Standing::Open,
        Standing::Outsider,
        Standing::Member(Role::Viewer),
        Standing::Member(Role::Submitter),
        Standing::Member(Role::Operator),
    ];

    fn user(role: Role) -> Caller {
        Caller::Known(Identity::User { name: "vera".to_owned(), role })
    }

    fn worker() -> Caller {
        Caller::Known(Identity::Worker { name: "vera".to_owned() })
    }

    fn of(owner: Option<&str>, standing: Standing) -> Belongs {
        Belongs { owner: owner.map(str::to_owned), project: "lung".to_owned(), standing }
    }

    /// Of each standing: whether one may submit, change what is one's own, what is of others.
    fn permitted(caller: &Caller) -> Vec<[bool; 3]> {
        let may = |standing| {
            let change = |owner| may_change(caller, &of(owner, standing)).is_ok();
            assert_eq!(change(None), change(Some("ben")), "what nobody known submitted is nobody's own");
            [may_submit(caller, "lung", standing).is_ok(), change(Some("vera")), change(Some("ben"))]
        };
        STANDINGS.map(may).into()
    }

    #[test]
    fn a_member_does_what_its_role_says_and_an_operator_everything() {
        let (nothing, own, all) = ([false; 3], [true, true, false], [true; 3]);
        assert_eq!(permitted(&user(Role::Viewer)), [nothing; 5]);
        assert_eq!(permitted(&user(Role::Submitter)), [own, nothing, nothing, own, all]);
        assert_eq!(permitted(&user(Role::Operator)), [all; 5]);
        assert_eq!(permitted(&worker()), [nothing; 5]);
        assert_eq!(permitted(&Caller::Nobody), [nothing; 5]);
        let trusted = STANDINGS.map(|standing| {
            may_submit(&Caller::Trusted, "lung", standing).is_ok()
                && may_change(&Caller::Trusted, &of(Some("ben"), standing)).is_ok()
        });
        assert_eq!(trusted, [true; 5]);
        // Nobody is called so.
        assert!(may_change(&Caller::Nobody, &of(Some(NOBODY), Standing::Open)).is_err());
    }

    #[test]
    fn a_refusal_says_whose_it_is_or_how_to_become_a_member() {
        let submitter = user(Role::Submitter);
        let refused = may_change(&submitter, &of(Some("ben"), Standing::Open)).unwrap_err();
        assert_eq!(refused.to_string(), "'ben' submitted it, so 'vera' may not change it; an operator may");
        for (standing, what) in
            [(Standing::Outsider, "no member"), (Standing::Member(Role::Viewer), "a viewer")]
        {
            let refused = may_change(&submitter, &of(Some("vera"), standing)).unwrap_err();
            assert!(matches!(&refused, NotTheirs::Member(_)), "{refused:?}");
            for part in [what, "'lung'", "cakes project grant lung --role submitter --to vera"] {
                assert!(refused.to_string().contains(part), "{refused}");
            }
        }
    }

    #[test]
    fn a_member_has_a_name_that_somebody_can_have() {
        for good in ["vera", "Vera.B@lab-1", &"a".repeat(64)] {
            assert_eq!(check_name(good), Ok(()));
        }
        for bad in ["", "-a", "a b", "ä", &"a".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
