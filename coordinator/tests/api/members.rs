//! Projects with members: every method that adds or changes something, by every standing.

use cakes_coordinator::core::access::Role;
use cakes_coordinator::core::rights::{Needs, needs};
use cakes_coordinator::store::access::{issue, page as audit};
use cakes_coordinator::store::{MIGRATIONS, PgPool};
use cakes_proto::bearer::Bearer;
use cakes_proto::method::Method;
use cakes_proto::v1;
use cakes_proto::v1::fleet_service_client::FleetServiceClient;
use cakes_proto::v1::job_service_client::JobServiceClient;
use cakes_proto::v1::search_service_client::SearchServiceClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::harness::{Service, reason, refused, small_search};

type Wire = InterceptedService<Channel, Bearer>;

async fn with_token(service: &Service, pool: &PgPool, name: &str, role: Role) -> Wire {
    let token = issue(pool, name, role, None).await.unwrap();
    InterceptedService::new(service.channel.clone(), Bearer::new(&token, "a test").unwrap())
}

async fn grant(
    wire: &Wire,
    project: &str,
    member: &str,
    role: v1::ProjectRole,
) -> Result<v1::Project, Status> {
    let (name, member) = (project.to_owned(), member.to_owned());
    let request = v1::SetProjectMemberRequest { name, member, role: role.into() };
    FleetServiceClient::new(wire.clone()).set_project_member(request).await.map(Response::into_inner)
}

fn of_lung() -> v1::SubmitSearchRequest {
    v1::SubmitSearchRequest { project: "lung".to_owned(), ..small_search() }
}

/// Something in a project.
struct Thing {
    search: v1::Search,
    job: String,
}

impl Thing {
    /// Calls a method about it; what says no before anything is done counts, not what comes of it.
    async fn call(&self, wire: &Wire, method: Method) -> Result<(), Status> {
        use Method as M;
        let (mut jobs, mut searches) =
            (JobServiceClient::new(wire.clone()), SearchServiceClient::new(wire.clone()));
        let (id, search) = (self.job.clone(), self.search.id.clone());
        let set = || [("paper".to_owned(), "yes".to_owned())].into();
        let (text, author) = ("good".to_owned(), "me".to_owned());
        macro_rules! call {
            ($client:ident . $method:ident ($request:ident { $($field:ident),* $(,)? })) => {
                $client.$method(v1::$request { $($field,)* ..v1::$request::default() }).await.map(drop)
            };
        }
        match method {
            M::SubmitSearch => searches.submit_search(of_lung()).await.map(drop),
            M::SubmitRetrain => {
                let architecture_digest = "00".repeat(32);
                let search_id = search;
                call!(jobs.submit_retrain(SubmitRetrainRequest { search_id, architecture_digest }))
            }
            M::DeriveArchitectures => {
                let unconstrained = true;
                let id = search;
                call!(searches.derive_architectures(DeriveArchitecturesRequest { id, unconstrained }))
            }
            M::AddSearchNote => {
                let id = search;
                call!(searches.add_search_note(AddSearchNoteRequest { id, text, author }))
            }
            M::LabelSearch => {
                let (id, set) = (search, set());
                call!(searches.label_search(LabelSearchRequest { id, set }))
            }
            M::CancelSearch => {
                let id = search;
                call!(searches.cancel_search(CancelSearchRequest { id }))
            }
            M::AddJobNote => call!(jobs.add_job_note(AddJobNoteRequest { id, text, author })),
            M::LabelJob => {
                let set = set();
                call!(jobs.label_job(LabelJobRequest { id, set }))
            }
            M::PinCheckpoint => call!(jobs.pin_checkpoint(PinCheckpointRequest { id })),
            M::UnpinCheckpoint => call!(jobs.unpin_checkpoint(UnpinCheckpointRequest { id })),
            M::CancelJob => call!(jobs.cancel_job(CancelJobRequest { id })),
            M::PauseJob => call!(jobs.pause_job(PauseJobRequest { id })),
            M::ResumeJob => call!(jobs.resume_job(ResumeJobRequest { id })),
            M::RetryJob => call!(jobs.retry_job(RetryJobRequest { id })),
            other => panic!("{other:?} asks for a member or an owner, and is not tried here"),
        }
    }
}

/// Why a call was refused for who made it, if it was.
fn refusal(answer: Result<(), Status>) -> Option<String> {
    let status = answer.err().filter(|status| status.code() == Code::PermissionDenied)?;
    Some(reason(&status))
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn what_is_of_a_project_is_its_members_by_their_roles_and_nobody_elses(pool: PgPool) {
    let service = Service::start_for_known(pool.clone()).await;
    let wire = async |name: &str, role| with_token(&service, &pool, name, role).await;
    let olga = wire("olga", Role::Operator).await;
    let set = v1::SetProjectRequest { name: "lung".to_owned(), ..v1::SetProjectRequest::default() };
    FleetServiceClient::new(olga.clone()).set_project(set).await.unwrap();
    // While it has no members, whoever may submit may submit to it.
    let [ada, sue] = [wire("ada", Role::Submitter).await, wire("sue", Role::Submitter).await];
    let submitted = SearchServiceClient::new(sue.clone()).submit_search(of_lung()).await.unwrap();
    let search = submitted.into_inner().search.unwrap();
    let thing = Thing { job: search.jobs[0].id.clone(), search };
    assert_eq!(refusal(thing.call(&ada, Method::PauseJob).await).as_deref(), Some("NOT_OWNER"));

    for (name, role) in [
        ("vic", v1::ProjectRole::Viewer),
        ("sue", v1::ProjectRole::Submitter),
        ("sam", v1::ProjectRole::Submitter),
        ("omar", v1::ProjectRole::Operator),
        ("vera", v1::ProjectRole::Operator),
    ] {
        grant(&olga, "lung", name, role).await.unwrap();
    }
    let callers = [
        ("ada", ada, Some("NOT_MEMBER"), Some("NOT_MEMBER")),
        ("vic", wire("vic", Role::Submitter).await, Some("NOT_MEMBER"), Some("NOT_MEMBER")),
        // A project makes nobody more than their token says, but for what is of others.
        ("vera", wire("vera", Role::Viewer).await, Some("ROLE_REQUIRED"), Some("ROLE_REQUIRED")),
        ("sam", wire("sam", Role::Submitter).await, None, Some("NOT_OWNER")),
        ("sue", sue, None, None),
        ("omar", wire("omar", Role::Submitter).await, None, None),
        ("olga", olga.clone(), None, None),
    ];
    let in_projects = || {
        let all = Method::ALL.iter().copied();
        all.filter(|method| matches!(needs(*method), Needs::Member | Needs::Owner))
    };
    let (mut outcomes, mut denied) = (0, 1);
    for (name, wire, adds, changes) in &callers {
        for method in in_projects() {
            let wanted = if needs(method) == Needs::Member { adds } else { changes };
            let answer = refusal(thing.call(wire, method).await);
            assert_eq!(answer.as_deref(), *wanted, "{method:?} by {name}");
            outcomes += 1;
            denied += usize::from(wanted.is_some());
        }
        // Whoever may look may look everywhere.
        let get = v1::GetJobRequest { id: thing.job.clone(), ..v1::GetJobRequest::default() };
        JobServiceClient::new(wire.clone()).get_job(get).await.unwrap();
    }
    println!("{} methods, {outcomes} outcomes, all as members may", in_projects().count());
    let rows = audit(&pool, None, 10_000).await.unwrap();
    let forbidden = rows.iter().filter(|row| row.answer == "FORBIDDEN").count();
    assert_eq!(forbidden, denied, "a refusal is not in the record");
    let granted = rows.iter().rev().find(|row| row.action == "set_project_member").unwrap();
    assert_eq!((granted.object.as_str(), granted.token_name.as_deref()), ("lung vic", Some("olga")));

    // What would be refused is refused to whoever only asks.
    let asks = v1::SubmitSearchRequest { validate_only: true, ..of_lung() };
    let [(_, ada, ..), ..] = &callers;
    let status =
        refused(SearchServiceClient::new(ada.clone()).submit_search(asks).await, Code::PermissionDenied);
    assert!(status.message().contains("cakes project grant lung --role submitter --to ada"), "{status:?}");
    SearchServiceClient::new(ada.clone()).submit_search(small_search()).await.unwrap();
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn members_are_made_shown_and_taken_away(pool: PgPool) {
    let service = Service::start(pool.clone()).await;
    let mut fleet = service.fleet();
    let request = |role: i32| v1::SetProjectMemberRequest {
        name: "default".to_owned(),
        member: "sue".to_owned(),
        role,
    };
    let made =
        fleet.set_project_member(request(v1::ProjectRole::Operator.into())).await.unwrap().into_inner();
    let sue = v1::ProjectMember { name: "sue".to_owned(), role: v1::ProjectRole::Operator.into() };
    assert_eq!((made.name.as_str(), &made.members), ("default", &vec![sue.clone()]));
    let listed = fleet.list_projects(v1::ListProjectsRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.projects[0].members, [sue]);
    for role in [0, 77] {
        let status = refused(fleet.set_project_member(request(role)).await, Code::InvalidArgument);
        assert!(status.message().starts_with("role: must be"), "{status:?}");
    }
    let wrong = v1::SetProjectMemberRequest { member: "s e".to_owned(), ..request(1) };
    let status = refused(fleet.set_project_member(wrong).await, Code::InvalidArgument);
    assert!(status.message().starts_with("member: 's e' is nobody's name"), "{status:?}");
    // Where nobody need be known, whoever comes is an operator.
    service.submit(small_search()).await;

    let gone = v1::RemoveProjectMemberRequest { name: "default".to_owned(), member: "sue".to_owned() };
    assert!(fleet.remove_project_member(gone.clone()).await.unwrap().into_inner().members.is_empty());
    refused(fleet.remove_project_member(gone).await, Code::NotFound);
}
