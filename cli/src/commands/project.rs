//! `cakes project`: who may use how much of the devices.

use cakes_proto::v1;
use clap::{Args, Subcommand};

use super::repeat::{self, Repeat};
use crate::args::GlobalArguments;
use crate::client::{Client, rpc};
use crate::error::{CommandError, Outcome};
use crate::{output, tables};

#[derive(Debug, Subcommand)]
pub enum ProjectCommand {
    /// List projects with what they may use and what they use.
    #[command(after_help = "Examples:\n  cakes project list\n  cakes project list --watch=10")]
    List(Repeat),
    /// Make a project, or change what it may use; what is not given stays as it is.
    #[command(
        after_help = "Examples:\n  cakes project set radiology --share 4\n  cakes project set students --device-quota 8 --device-hours-quota 2000 --period-days 30\n  cakes project set students --no-quotas"
    )]
    Set(SetArguments),
    /// Make somebody a member of a project, or give a member another role.
    ///
    /// A project with members is theirs and the operators' alone: nobody else submits to it or
    /// changes what is in it. Members come with a token or a certificate of role submitter.
    #[command(
        after_help = "Examples:\n  cakes project grant radiology --role submitter --to vera\n  cakes project grant radiology --role operator --to olga"
    )]
    Grant {
        /// Name of the project.
        project: String,
        /// What the member may do in it.
        #[arg(long, value_enum)]
        role: MemberRole,
        /// Name in the member's token or certificate.
        #[arg(long, value_name = "NAME")]
        to: String,
    },
    /// Take a member from a project; without the last one it is open to everybody again.
    #[command(after_help = "Example:\n  cakes project revoke radiology --from vera")]
    Revoke {
        /// Name of the project.
        project: String,
        /// Name of the member.
        #[arg(long, value_name = "NAME")]
        from: String,
    },
    /// List the members of a project.
    #[command(after_help = "Example:\n  cakes project members radiology")]
    Members {
        /// Name of the project.
        project: String,
    },
}

/// What a member may do, as people type it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MemberRole {
    /// Nothing but look.
    Viewer,
    /// Submit, and change what is their own.
    Submitter,
    /// Also change what is of others.
    Operator,
}

impl From<MemberRole> for v1::ProjectRole {
    fn from(role: MemberRole) -> Self {
        match role {
            MemberRole::Viewer => v1::ProjectRole::Viewer,
            MemberRole::Submitter => v1::ProjectRole::Submitter,
            MemberRole::Operator => v1::ProjectRole::Operator,
        }
    }
}

#[derive(Debug, Args)]
pub struct SetArguments {
    /// Name of the project: 1 to 63 of a-z, 0-9, ., _ and -.
    name: String,
    /// Weight against other projects that want devices, 1 to 1000000 [default of a new one: 1].
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    share: Option<u32>,
    /// Most devices at once.
    #[arg(long, value_name = "COUNT")]
    device_quota: Option<u32>,
    /// Most device-hours in a period.
    #[arg(long, value_name = "HOURS")]
    device_hours_quota: Option<f64>,
    /// Length of the period, 1 to 366 [default of a new one: 30].
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=366))]
    period_days: Option<u32>,
    /// Without limits, but for those that are given.
    #[arg(long)]
    no_quotas: bool,
}

/// # Errors
/// The coordinator is away or refuses.
pub async fn run(global: &GlobalArguments, command: ProjectCommand) -> Result<Outcome, CommandError> {
    let client = Client::connect(global).await?;
    match command {
        ProjectCommand::List(repeat) => {
            let text = |all: &v1::ListProjectsResponse| table(&all.projects);
            repeat::print(global.output, repeat, async || list(&client).await, text).await
        }
        ProjectCommand::Set(arguments) => {
            let known = list(&client).await?.projects.into_iter().find(|known| known.name == arguments.name);
            let request = request(arguments, &known.unwrap_or_default());
            let project = rpc!(client, fleet.set_project, "FleetService/SetProject", request)?;
            output::print(global.output, &project, |project| table(std::slice::from_ref(project)))?;
            Ok(Outcome::Done)
        }
        ProjectCommand::Grant { project, role, to } => {
            let role = v1::ProjectRole::from(role).into();
            let request = v1::SetProjectMemberRequest { name: project, member: to, role };
            let project = rpc!(client, fleet.set_project_member, "FleetService/SetProjectMember", request)?;
            print_members(global, &project)
        }
        ProjectCommand::Revoke { project, from } => {
            let request = v1::RemoveProjectMemberRequest { name: project, member: from };
            let project =
                rpc!(client, fleet.remove_project_member, "FleetService/RemoveProjectMember", request)?;
            print_members(global, &project)
        }
        ProjectCommand::Members { project } => {
            let known = list(&client).await?.projects.into_iter().find(|known| known.name == project);
            let problem = || format!("there is no project '{project}'; `cakes project list` shows them");
            print_members(global, &known.ok_or_else(|| CommandError::invalid(problem()))?)
        }
    }
}

async fn list(client: &Client) -> Result<v1::ListProjectsResponse, CommandError> {
    rpc!(client, fleet.list_projects, "FleetService/ListProjects", v1::ListProjectsRequest {})
}

fn print_members(global: &GlobalArguments, project: &v1::Project) -> Result<Outcome, CommandError> {
    output::print(global.output, project, |project| match project.members.as_slice() {
        [] => format!("{} has no members: it is open to whoever may submit", project.name),
        members => tables::members(members).render(output::terminal_width()),
    })?;
    Ok(Outcome::Done)
}

fn table(projects: &[v1::Project]) -> String {
    tables::projects(projects).render(output::terminal_width())
}

fn request(arguments: SetArguments, known: &v1::Project) -> v1::SetProjectRequest {
    let keeps = !arguments.no_quotas;
    v1::SetProjectRequest {
        name: arguments.name,
        share: arguments.share.unwrap_or(known.share),
        device_quota: arguments.device_quota.or(known.device_quota.filter(|_| keeps)),
        device_hours_quota: arguments.device_hours_quota.or(known.device_hours_quota.filter(|_| keeps)),
        period_days: arguments.period_days.unwrap_or(known.period_days),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays() {
        let known = v1::Project {
            share: 4,
            device_quota: Some(8),
            device_hours_quota: Some(100.0),
            period_days: 7,
            ..v1::Project::default()
        };
        let none = || SetArguments {
            name: "a".into(),
            share: None,
            device_quota: None,
            device_hours_quota: None,
            period_days: None,
            no_quotas: false,
        };
        let same = request(none(), &known);
        assert_eq!(
            (same.share, same.device_quota, same.device_hours_quota, same.period_days),
            (4, Some(8), Some(100.0), 7)
        );
        let changed = request(SetArguments { device_quota: Some(2), no_quotas: true, ..none() }, &known);
        assert_eq!((changed.share, changed.device_quota, changed.device_hours_quota), (4, Some(2), None));
    }
}
