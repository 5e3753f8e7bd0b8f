//! Who may call what: one table for the gRPC API and for the web page, whose actions are
//! methods of the API.
//!
//! Nothing may be called by default: a method without a line of [`needs`] does not compile.

use cakes_proto::method::Method;

use super::access::Role;
use super::identity::Identity;

/// What a method asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// To be known, whoever it is.
    Identity,
    /// To be a user of this role, or of one that may more.
    Role(Role),
    /// To be a submitter, also in the project.
    Member,
    /// To be a submitter who submitted it, or an operator, at least of its project.
    Owner,
    /// To be a worker that speaks of itself.
    Worker(Own),
}

/// How a request of a worker shows that it speaks of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// `worker_id` is its own name; the incarnation is then one that it registered.
    Name,
    /// The lease was granted to it.
    Lease,
}

/// The table.
pub fn needs(method: Method) -> Needs {
    use Method as M;
    use Needs::{Member, Nothing, Owner, Worker};
    const VIEWER: Needs = Needs::Role(Role::Viewer);
    const SUBMITTER: Needs = Needs::Role(Role::Submitter);
    const OPERATOR: Needs = Needs::Role(Role::Operator);
    match method {
        M::SubmitSearch => Member,
        M::GetSearch => VIEWER,
        M::ListSearches => VIEWER,
        M::WatchSearch => VIEWER,
        M::CancelSearch => Owner,
        M::DeriveArchitectures => Member,
        M::GetParetoFront => VIEWER,
        M::GetLatencyTable => VIEWER,
        M::ExportSearch => VIEWER,
        M::ImportSearch => OPERATOR,
        M::LabelSearch => Owner,
        M::AddSearchNote => Member,

        M::SubmitRetrain => Member,
        M::GetJob => VIEWER,
        M::ListJobs => VIEWER,
        M::WatchJob => VIEWER,
        M::StreamJobLogs => VIEWER,
        M::GetCheckpoint => VIEWER,
        M::ListCheckpoints => VIEWER,
        M::PinCheckpoint => Owner,
        M::UnpinCheckpoint => Owner,
        M::GetTrainerJob => VIEWER,
        M::ListMetrics => VIEWER,
        M::ExplainJob => VIEWER,
        M::CancelJob => Owner,
        M::PauseJob => Owner,
        M::ResumeJob => Owner,
        M::RetryJob => Owner,
        M::LabelJob => Owner,
        M::AddJobNote => Member,

        M::GetArchitecture => VIEWER,
        M::ListArchitectures => VIEWER,
        M::EstimateCost => VIEWER,
        M::AddArchitectureNote => SUBMITTER,

        M::ListWorkers => VIEWER,
        M::DrainWorker => OPERATOR,
        M::CordonWorker => OPERATOR,
        M::UncordonWorker => OPERATOR,

        M::ListProjects => VIEWER,
        M::SetProject => OPERATOR,
        M::SetProjectMember => OPERATOR,
        M::RemoveProjectMember => OPERATOR,

        // Also what only reads: whoever knows the address of a webhook can often write there.
        M::AddWebhook => OPERATOR,
        M::ListWebhooks => OPERATOR,
        M::RemoveWebhook => OPERATOR,
        M::TestWebhook => OPERATOR,
        M::ListDeliveries => OPERATOR,

        M::Register => Worker(Own::Name),
        M::Acquire => Worker(Own::Name),
        M::Start => Worker(Own::Lease),
        M::Report => Worker(Own::Lease),
        M::CommitCheckpoint => Worker(Own::Lease),
        M::Complete => Worker(Own::Lease),
        M::Fail => Worker(Own::Lease),
        M::Reconcile => Worker(Own::Name),

        M::HealthCheck => Nothing,
        M::HealthWatch => Nothing,
        M::Reflection => Needs::Identity,
        M::ReflectionAlpha => Needs::Identity,
    }
}

/// Whether it may change something, so that it is recorded before it is done. What workers do
/// is not: jobs and their events are its record.
pub fn changes(method: Method) -> bool {
    match needs(method) {
        Needs::Role(Role::Operator) => !matches!(method, Method::ListWebhooks | Method::ListDeliveries),
        Needs::Role(Role::Submitter) | Needs::Member | Needs::Owner => true,
        Needs::Role(Role::Viewer) | Needs::Nothing | Needs::Identity | Needs::Worker(_) => false,
    }
}

/// Whether its calls take turns, caller by caller. Those of workers share transactions instead,
/// and what waits for other servers keeps no place meanwhile.
pub fn takes_turns(method: Method) -> bool {
    let is_of_people = !matches!(needs(method), Needs::Worker(_) | Needs::Nothing);
    is_of_people && !method.takes_stream() && method != Method::TestWebhook
}

/// Who is at the other end of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Nobody known, on a connection where nobody need be known.
    Trusted,
    /// Nobody known.
    Nobody,
    Known(Identity),
}

impl Caller {
    /// The name under which it owns what it submits; none for nobody known.
    pub fn owner(&self) -> Option<&str> {
        match self {
            Caller::Known(Identity::User { name, .. }) => Some(name),
            Caller::Known(_) | Caller::Trusted | Caller::Nobody => None,
        }
    }

    /// Whether the table lets it call a method.
    ///
    /// # Errors
    /// Why not.
    pub fn may(&self, method: Method) -> Result<(), Refusal> {
        let needed = needs(method);
        let is_permitted = match (self, needed) {
            (Caller::Trusted, _) | (_, Needs::Nothing) | (Caller::Known(_), Needs::Identity) => true,
            (Caller::Known(Identity::User { role, .. }), Needs::Role(least)) => *role >= least,
            // Whose it is, and in which project, the handler finds out: [`super::member`].
            (Caller::Known(Identity::User { role, .. }), Needs::Member | Needs::Owner) => {
                *role >= Role::Submitter
            }
            (Caller::Known(Identity::Worker { .. }), Needs::Worker(_)) => true,
            (Caller::Nobody, _)
            | (Caller::Known(Identity::User { .. }), Needs::Worker(_))
            | (Caller::Known(Identity::Worker { .. }), Needs::Role(_) | Needs::Member | Needs::Owner)
            | (
                Caller::Known(Identity::Coordinator { .. }),
                Needs::Role(_) | Needs::Member | Needs::Owner | Needs::Worker(_),
            ) => false,
        };
        if is_permitted { Ok(()) } else { Err(self.refusal(method, needed)) }
    }

    fn refusal(&self, method: Method, needed: Needs) -> Refusal {
        let needs = needed.name();
        let remedy = match needed {
            Needs::Role(_) | Needs::Member | Needs::Owner => Some(format!(
                "`cakes-coordinator token issue NAME --role {needs}` or `pki issue user NAME --role {needs}` makes one"
            )),
            Needs::Worker(_) => Some(
                "`cakes-coordinator token issue NAME --role worker` or `pki issue worker NAME` makes one"
                    .to_owned(),
            ),
            Needs::Nothing | Needs::Identity => None,
        };
        match self {
            Caller::Known(identity) => {
                let remedy = remedy.map_or_else(String::new, |remedy| format!("; {remedy}"));
                let message = format!(
                    "'{}' has the role {} and may not call {method}: it needs a token or a certificate of role \
                     {needs}{remedy}",
                    identity.name(),
                    identity.role(),
                    method = method.name(),
                );
                Refusal { method, role: identity.role(), needs, message }
            }
            Caller::Trusted | Caller::Nobody => {
                let remedy = remedy.unwrap_or_else(|| "`cakes-coordinator token issue` makes one".to_owned());
                let message = format!(
                    "{method} needs a token or a certificate: give one with --token-file or CAKES_TOKEN_FILE; {remedy}",
                    method = method.name(),
                );
                Refusal { method, role: NOBODY, needs, message }
            }
        }
    }
}

/// The role of whoever has none.
pub const NOBODY: &str = "nobody";

impl Needs {
    /// The least role, or what stands for it.
    pub fn name(self) -> &'static str {
        match self {
            Needs::Nothing => NOBODY,
            Needs::Identity => "any",
            Needs::Role(role) => role.as_str(),
            Needs::Member | Needs::Owner => Role::Submitter.as_str(),
            Needs::Worker(_) => "worker",
        }
    }
}

/// Why a caller may not call a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub method: Method,
    pub role: &'static str,
    pub needs: &'static str,
    /// For people, with the remedy.
    pub message: String,
}

impl Refusal {
    /// Whether the caller would have to say first who it is.
    pub fn is_of_nobody(&self) -> bool {
        self.role == NOBODY
    }
}

/// That a request of a worker names the worker itself.
///
/// # Errors
/// It is of somebody else.
pub fn speaks_for(caller: &Caller, worker: &str) -> Result<(), NotOwn> {
    match caller {
        Caller::Trusted => Ok(()),
        Caller::Known(Identity::Worker { name }) if name == worker => Ok(()),
        Caller::Known(identity) => {
            Err(NotOwn { caller: identity.name().to_owned(), worker: worker.to_owned() })
        }
        Caller::Nobody => Err(NotOwn { caller: NOBODY.to_owned(), worker: worker.to_owned() }),
    }
}

/// A worker speaks of another one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{caller}' may not speak for the worker '{worker}'; start it with --id {caller}, or with a token that \
     `cakes-coordinator token issue {worker} --role worker` makes"
)]
pub struct NotOwn {
    pub caller: String,
    pub worker: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(role: Role) -> Caller {
        Caller::Known(Identity::User { name: "vera".to_owned(), role })
    }

    fn worker(name: &str) -> Caller {
        Caller::Known(Identity::Worker { name: name.to_owned() })
    }

    #[test]
    fn each_role_may_what_the_one_before_it_may_and_no_user_is_a_worker() {
        let coordinator = Caller::Known(Identity::Coordinator { name: "c".to_owned() });
        for method in Method::ALL.iter().copied() {
            let may = |caller: &Caller| caller.may(method).is_ok();
            for pair in Role::ALL.windows(2) {
                assert!(!may(&user(pair[0])) || may(&user(pair[1])), "{method:?}");
            }
            let is_for_workers = matches!(needs(method), Needs::Worker(_));
            assert_eq!(may(&user(Role::Operator)), !is_for_workers, "{method:?}");
            assert_eq!(may(&Caller::Nobody), needs(method) == Needs::Nothing, "{method:?}");
            assert!(may(&Caller::Trusted), "{method:?}");
            let is_open = matches!(needs(method), Needs::Nothing | Needs::Identity);
            assert_eq!(may(&worker("a")), is_for_workers || is_open, "{method:?}");
            assert_eq!(may(&coordinator), is_open, "{method:?}");
        }
    }

    /// Names say what a method does; whoever adds one that changes something and takes it for
    /// one that reads is told here.
    #[test]
    fn viewers_read_and_whoever_changes_something_is_recorded() {
        const READ: [&str; 7] = ["get_", "list_", "watch_", "stream_", "explain_", "estimate_", "export_"];
        for method in Method::ALL.iter().copied() {
            let reads = READ.iter().any(|verb| method.name().starts_with(verb));
            let least = match needs(method) {
                Needs::Role(least) => least,
                Needs::Member | Needs::Owner => Role::Submitter,
                _ => {
                    assert!(!changes(method), "{method:?}");
                    continue;
                }
            };
            assert_eq!(changes(method), !reads, "{method:?}");
            assert!(reads || least > Role::Viewer, "{method:?}");
        }
    }

    #[test]
    fn calls_for_people_take_turns_but_what_streams_in_or_waits_for_others() {
        use Method as M;
        for method in [M::ListJobs, M::CancelJob, M::SubmitSearch, M::WatchJob, M::AddWebhook] {
            assert!(takes_turns(method), "{method:?}");
        }
        for method in [M::Report, M::Acquire, M::TestWebhook, M::ImportSearch, M::Reflection, M::HealthCheck]
        {
            assert!(!takes_turns(method), "{method:?}");
        }
        for method in M::ALL.iter().copied() {
            let is_for_workers = matches!(needs(method), Needs::Worker(_));
            assert!(!takes_turns(method) || !(is_for_workers || method.takes_stream()), "{method:?}");
        }
    }

    #[test]
    fn a_refusal_says_who_what_and_how_to_go_on() {
        let refused = user(Role::Viewer).may(Method::DrainWorker).unwrap_err();
        assert_eq!((refused.role, refused.needs, refused.is_of_nobody()), ("viewer", "operator", false));
        for part in ["'vera'", "viewer", "drain_worker", "operator", "token issue NAME --role operator"] {
            assert!(refused.message.contains(part), "{}", refused.message);
        }
        let refused = user(Role::Operator).may(Method::Register).unwrap_err();
        assert!(refused.message.contains("--role worker"), "{}", refused.message);
        let refused = Caller::Nobody.may(Method::ListJobs).unwrap_err();
        assert!(refused.is_of_nobody());
        for part in ["list_jobs", "--token-file", "CAKES_TOKEN", "--role viewer"] {
            assert!(refused.message.contains(part), "{}", refused.message);
        }
    }

    #[test]
    fn a_worker_speaks_for_itself_alone() {
        assert_eq!(speaks_for(&worker("a"), "a"), Ok(()));
        assert_eq!(speaks_for(&Caller::Trusted, "a"), Ok(()));
        for (caller, of) in [(worker("a"), "b"), (worker("a"), "A"), (user(Role::Operator), "vera")] {
            let refused = speaks_for(&caller, of).unwrap_err();
            assert!(refused.to_string().contains("--role worker"), "{refused}");
        }
        assert!(speaks_for(&Caller::Nobody, NOBODY).is_err());
    }

    #[test]
    fn a_path_leads_to_its_method_and_nothing_else_does() {
        for method in Method::ALL.iter().copied() {
            assert_eq!(Method::from_path(method.path()), Some(method));
        }
        for path in [
            "",
            "/",
            "/cakes.v1.JobService/",
            "/cakes.v1.JobService/canceljob",
            "cakes.v1.JobService/CancelJob",
            "/cakes.v1.JobService/CancelJob/",
            "//cakes.v1.JobService/CancelJob",
            "/cakes.v1.FleetService/CancelJob",
        ] {
            assert_eq!(Method::from_path(path), None, "{path}");
        }
    }
}
