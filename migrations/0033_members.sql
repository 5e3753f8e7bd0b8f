-- Members: who may do what in a project. One without members is open to everybody.

create table project_member (
    project text not null references project (name),
    name text not null check (name ~ '^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$'),
    role text not null check (role in ('viewer', 'submitter', 'operator')),
    primary key (project, name)
);

comment on table project_member is 'Who may do what in a project; a project without rows here is open to everybody.';
comment on column project_member.name is 'Name in the token or the certificate.';
comment on column project_member.role is 'What it may do in the project, if its token or certificate lets it submit.';
