//! Utility statements: the closed list of what is understood, each with the accesses that it needs.
//!
//! The decision rests on the parse tree that the server is about to run, never on the text. A statement that is not
//! in the list is denied. What a statement does to objects that it does not name (cascades) is decided where the server
//! does it, in the object access hook.

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::enforce::{Target, Wanted};
use super::super::{catalog, settings};
use super::needs::{Needs, Permit, of_table, on_relation};
use super::{handed, names, swept};
use crate::refusal::Refusal;
use crate::request::{Action, Form, Kind, Verb, Voice};

/// A subscription that may change rows is for no agent: its worker writes where the other server says, into the extension's own tables
/// too, past every rule, row filter and approval, and goes on after the session.
fn subscribes(verb: Verb) -> Needs {
    let action = Action::on(verb, Kind::Subscription);
    Needs::of(vec![Wanted { never: true, ..Wanted::named(action, Target::Nothing) }])
}

/// ALTER SUBSCRIPTION ... DISABLE: no row is changed any more.
fn is_disable(statement: &pg_sys::AlterSubscriptionStmt) -> bool {
    let enabling = statement.kind == pg_sys::AlterSubscriptionType::ALTER_SUBSCRIPTION_ENABLED;
    // SAFETY: gram.y makes one DefElem with a boolean.
    enabling
        && unsafe {
            let options = names::members(statement.options);
            !options.is_empty() && options.into_iter().all(|option| !pg_sys::defGetBoolean(option.cast()))
        }
}

/// What takes `system`, and touches an object that a rule may keep from everything.
fn system_on(target: Target) -> Needs {
    let mut needs = Needs::verb(Verb::System);
    let touched = Wanted::named(Action::plain(Verb::System), of_table(target)).by(Voice::View);
    needs.wanted.extend(swept::not_simply_allowed(vec![touched]));
    needs
}

/// What `statement` needs.
///
/// # Errors
/// A refusal for SET of a value that no rule covers.
///
/// # Safety
/// `statement` is the utility statement that the hook was given; it is only read.
pub unsafe fn needs(statement: *mut pg_sys::Node) -> Result<Needs, Refusal> {
    // SAFETY: each arm casts to the type of its tag. Fields are read, nothing is written.
    unsafe {
        Ok(match (*statement).type_ {
            T::T_TransactionStmt => transaction(&*statement.cast()),
            T::T_VariableSetStmt => return settings::set_needs(&*statement.cast()).map(set),
            T::T_VariableShowStmt => Needs::free(),
            T::T_DiscardStmt => Needs::free(),
            T::T_DeclareCursorStmt
            | T::T_ClosePortalStmt
            | T::T_FetchStmt
            | T::T_PrepareStmt
            | T::T_ExecuteStmt
            | T::T_ConstraintsSetStmt => Needs::ordinary(),
            T::T_DeallocateStmt => Needs::free(),
            // What is explained is decided where it is planned and started; what EXPLAIN ANALYZE makes, here.
            T::T_ExplainStmt => match table_made(statement) {
                Some(create) => {
                    super::ddl::needs(T::T_CreateTableAsStmt, create.cast()).unwrap_or_else(Needs::unknown)
                }
                None => Needs::ordinary(),
            },
            T::T_CallStmt => call(&*statement.cast()),
            T::T_DoStmt => Needs { form: Form::Do, ..Needs::verb(Verb::System) },
            T::T_CopyStmt => copy(&*statement.cast()),
            T::T_TruncateStmt => {
                let truncate: &pg_sys::TruncateStmt = &*statement.cast();
                each_relation(truncate.relations, Action::plain(Verb::Truncate))
            }
            T::T_LockStmt => {
                let lock: &pg_sys::LockStmt = &*statement.cast();
                let mut needs = each_relation(lock.relations, Action::plain(Verb::Lock));
                let behind: Vec<Wanted> = needs.wanted.iter().flat_map(behind_view).collect();
                needs.wanted.extend(behind);
                Needs { permit: Permit::Nothing, ..needs }
            }
            T::T_NotifyStmt | T::T_ListenStmt | T::T_UnlistenStmt => Needs::verb(Verb::Notify),
            T::T_VacuumStmt => vacuum(&*statement.cast()),
            T::T_ClusterStmt => maintain((*statement.cast::<pg_sys::ClusterStmt>()).relation),
            T::T_ReindexStmt => reindex(&*statement.cast()),
            T::T_RefreshMatViewStmt => maintain((*statement.cast::<pg_sys::RefreshMatViewStmt>()).relation),
            T::T_SecLabelStmt => {
                let label: &pg_sys::SecLabelStmt = &*statement.cast();
                system_on(super::ddl::whole_of(label.objtype, label.object))
            }
            T::T_AlterExtensionContentsStmt => {
                let alter: &pg_sys::AlterExtensionContentsStmt = &*statement.cast();
                system_on(super::ddl::whole_of(alter.objtype, alter.object))
            }
            T::T_CreatePublicationStmt => {
                let create: &pg_sys::CreatePublicationStmt = &*statement.cast();
                let mut needs = Needs::verb(Verb::System);
                needs.wanted.extend(handed::to_subscribers(create.pubobjects, create.for_all_tables));
                needs
            }
            T::T_AlterPublicationStmt => {
                let alter: &pg_sys::AlterPublicationStmt = &*statement.cast();
                let mut needs = Needs::verb(Verb::System);
                if alter.action != pg_sys::AlterPublicationAction::AP_DropObjects {
                    needs.wanted.extend(handed::to_subscribers(alter.pubobjects, alter.for_all_tables));
                }
                needs
            }
            T::T_CreateSubscriptionStmt => subscribes(Verb::Create),
            T::T_AlterSubscriptionStmt => match is_disable(&*statement.cast()) {
                true => Needs::verb(Verb::System),
                false => subscribes(Verb::Alter),
            },
            T::T_CheckPointStmt
            | T::T_LoadStmt
            | T::T_AlterSystemStmt
            | T::T_CreateExtensionStmt
            | T::T_AlterExtensionStmt
            | T::T_CreateEventTrigStmt
            | T::T_AlterEventTrigStmt
            | T::T_DropSubscriptionStmt
            | T::T_CreatePLangStmt
            | T::T_CreateAmStmt => Needs::verb(Verb::System),
            T::T_CreateFdwStmt
            | T::T_AlterFdwStmt
            | T::T_CreateForeignServerStmt
            | T::T_AlterForeignServerStmt
            | T::T_CreateUserMappingStmt
            | T::T_AlterUserMappingStmt
            | T::T_DropUserMappingStmt
            | T::T_ImportForeignSchemaStmt => Needs::verb(Verb::Foreign),
            T::T_CreateRoleStmt => {
                let create: &pg_sys::CreateRoleStmt = &*statement.cast();
                role_needs(catalog::text(create.role).map_or(Target::Nothing, |name| names::role(&name)))
            }
            T::T_AlterRoleStmt => {
                role_needs(names::role_spec((*statement.cast::<pg_sys::AlterRoleStmt>()).role))
            }
            T::T_AlterRoleSetStmt => {
                role_needs(names::role_spec((*statement.cast::<pg_sys::AlterRoleSetStmt>()).role))
            }
            T::T_DropRoleStmt => each_role((*statement.cast::<pg_sys::DropRoleStmt>()).roles),
            T::T_GrantRoleStmt => Needs::verb(Verb::Role),
            T::T_ReassignOwnedStmt => {
                owned(each_role((*statement.cast::<pg_sys::ReassignOwnedStmt>()).roles), false)
            }
            T::T_DropOwnedStmt => owned(each_role((*statement.cast::<pg_sys::DropOwnedStmt>()).roles), true),
            T::T_GrantStmt => grant(&*statement.cast()),
            T::T_AlterDefaultPrivilegesStmt => Needs::verb(Verb::Grant),
            T::T_AlterOwnerStmt => {
                let alter: &pg_sys::AlterOwnerStmt = &*statement.cast();
                Needs::one(Action::plain(Verb::Grant), names::existing(alter.objectType, alter.object))
            }
            tag => return Ok(super::ddl::needs(tag, statement).unwrap_or_else(Needs::unknown)),
        })
    }
}

/// The CREATE TABLE AS that a statement runs: itself, or what EXPLAIN ANALYZE explains.
///
/// # Safety
/// `statement` is a valid utility statement.
pub unsafe fn table_made(statement: *mut pg_sys::Node) -> Option<*mut pg_sys::CreateTableAsStmt> {
    // SAFETY: the tag decides the cast; parse analysis has put a Query into EXPLAIN, options are DefElem nodes.
    unsafe {
        match (*statement).type_ {
            T::T_CreateTableAsStmt => Some(statement.cast()),
            T::T_ExplainStmt => {
                let explain = &*statement.cast::<pg_sys::ExplainStmt>();
                let explained = utility_explained(explain)?;
                (names::is_set(explain.options, "analyze") && (*explained).type_ == T::T_CreateTableAsStmt)
                    .then(|| explained.cast())
            }
            _ => None,
        }
    }
}

/// The utility statement that EXPLAIN explains.
///
/// # Safety
/// `explain` is analysed.
pub unsafe fn utility_explained(explain: &pg_sys::ExplainStmt) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller's promise; the tag is looked at before the cast.
    unsafe {
        if explain.query.is_null() || (*explain.query).type_ != T::T_Query {
            return None;
        }
        let query = &*explain.query.cast::<pg_sys::Query>();
        (query.commandType == pg_sys::CmdType::CMD_UTILITY && !query.utilityStmt.is_null())
            .then_some(query.utilityStmt)
    }
}

fn transaction(statement: &pg_sys::TransactionStmt) -> Needs {
    use pg_sys::TransactionStmtKind::{
        TRANS_STMT_BEGIN, TRANS_STMT_COMMIT, TRANS_STMT_RELEASE, TRANS_STMT_ROLLBACK, TRANS_STMT_ROLLBACK_TO,
        TRANS_STMT_SAVEPOINT, TRANS_STMT_START,
    };
    match statement.kind {
        TRANS_STMT_BEGIN | TRANS_STMT_START => {
            // SAFETY: the options of BEGIN are DefElems, as those of SET TRANSACTION.
            match unsafe { settings::transaction_needs(statement.options) } {
                Some(wanted) => Needs { without_token: false, ..set(vec![wanted]) },
                None => Needs::free(),
            }
        }
        TRANS_STMT_COMMIT
        | TRANS_STMT_ROLLBACK
        | TRANS_STMT_SAVEPOINT
        | TRANS_STMT_RELEASE
        | TRANS_STMT_ROLLBACK_TO => Needs::free(),
        // PREPARE TRANSACTION and what ends one: they outlive the session.
        _ => Needs::verb(Verb::System),
    }
}

fn set(wanted: Vec<Wanted>) -> Needs {
    Needs { without_token: wanted.is_empty(), permit: Permit::Nothing, wanted, form: Form::Plain }
}

unsafe fn call(statement: &pg_sys::CallStmt) -> Needs {
    // SAFETY: funcexpr is filled in by parse analysis; a CALL without it never reaches the hook.
    let function = unsafe { statement.funcexpr.as_ref() }.map(|call| call.funcid);
    match function.and_then(|function| super::functions::wanted(function, super::super::calls::voice())) {
        Some(wanted) => Needs { wanted: vec![wanted], ..Needs::ordinary() },
        None if function.is_some() => Needs::ordinary(),
        None => Needs::unknown(),
    }
}

fn copy(statement: &pg_sys::CopyStmt) -> Needs {
    let needs = Needs { form: Form::Copy, ..Needs::ordinary() };
    if statement.is_program || !statement.filename.is_null() {
        return Needs { wanted: vec![Wanted::named(Action::plain(Verb::File), Target::Nothing)], ..needs };
    }
    needs
}

unsafe fn each_relation(list: *mut pg_sys::List, action: Action) -> Needs {
    // SAFETY: a list of RangeVars, as the grammar builds it.
    let relations = unsafe { names::members(list) };
    let wanted = relations.into_iter().map(|range| {
        // SAFETY: as above.
        let target = unsafe { names::relation_target(range.cast()) };
        on_relation(action, target)
    });
    Needs::of(wanted.collect())
}

/// LOCK of a view also locks what the view reads, at any depth (LockViewRecurse): subject to denies.
fn behind_view(locked: &Wanted) -> Vec<Wanted> {
    let Target::Relation(view) = locked.target else { return Vec::new() };
    let read = names::read_by_view(view);
    let target = |relid: &pg_sys::Oid| {
        Wanted::named(Action::plain(Verb::Lock), Target::Relation(*relid)).by(Voice::View)
    };
    read.iter().map(target).collect()
}

unsafe fn maintain(range: *mut pg_sys::RangeVar) -> Needs {
    // SAFETY: null (CLUSTER of everything) or a RangeVar.
    let target = unsafe { names::relation_target(range) };
    let mut needs = Needs::of(vec![on_relation(Action::plain(Verb::Maintain), target)]);
    if range.is_null() {
        needs.wanted.extend(swept::maintained(None));
    }
    needs
}

unsafe fn vacuum(statement: &pg_sys::VacuumStmt) -> Needs {
    // SAFETY: a list of VacuumRelations.
    let relations = unsafe { names::members(statement.rels) };
    if relations.is_empty() {
        // SAFETY: null stands for everything.
        return unsafe { maintain(std::ptr::null_mut()) };
    }
    let wanted = relations.into_iter().map(|node| {
        // SAFETY: as above; `relation` is null only when expanded inside the server, after this hook.
        let target = unsafe { names::relation_target((*node.cast::<pg_sys::VacuumRelation>()).relation) };
        on_relation(Action::plain(Verb::Maintain), target)
    });
    Needs::of(wanted.collect())
}

unsafe fn reindex(statement: &pg_sys::ReindexStmt) -> Needs {
    if statement.relation.is_null() {
        let mut needs = Needs::verb(Verb::Maintain);
        let of_schema = statement.kind == pg_sys::ReindexObjectType::REINDEX_OBJECT_SCHEMA;
        // SAFETY: the name of a schema, of the database, or null.
        let schema = unsafe { catalog::text(statement.name) }.filter(|_| of_schema);
        needs.wanted.extend(swept::maintained(schema.map(|name| names::schema(&name)).as_ref()));
        return needs;
    }
    // SAFETY: a RangeVar of a table or an index.
    unsafe { maintain(statement.relation) }
}

fn owned(mut needs: Needs, drops: bool) -> Needs {
    let hanging = swept::of_roles(&needs.wanted, drops);
    needs.wanted.extend(hanging);
    needs
}

fn role_needs(target: Target) -> Needs {
    Needs::one(Action::plain(Verb::Role), target)
}

unsafe fn each_role(list: *mut pg_sys::List) -> Needs {
    // SAFETY: a list of RoleSpecs.
    let roles = unsafe { names::members(list) };
    let wanted = roles.into_iter().map(|spec| {
        // SAFETY: as above.
        Wanted::named(Action::plain(Verb::Role), unsafe { names::role_spec(spec.cast()) })
    });
    Needs::of(wanted.collect())
}

unsafe fn grant(statement: &pg_sys::GrantStmt) -> Needs {
    use pg_sys::ObjectType::{OBJECT_SCHEMA, OBJECT_SEQUENCE, OBJECT_TABLE};
    // ALL ... IN SCHEMA keeps the object type, but what it lists are schemas.
    let one_by_one = statement.targtype == pg_sys::GrantTargetType::ACL_TARGET_OBJECT;
    let kind = if one_by_one { statement.objtype } else { OBJECT_SCHEMA };
    if matches!(kind, OBJECT_TABLE | OBJECT_SEQUENCE) {
        // SAFETY: for tables and sequences the objects are RangeVars.
        return unsafe { each_relation(statement.objects, Action::plain(Verb::Grant)) };
    }
    // SAFETY: for other kinds the nodes that `existing` knows.
    let objects = unsafe { names::members(statement.objects) };
    let wanted = objects.into_iter().map(|object| {
        // SAFETY: as above.
        Wanted::named(Action::plain(Verb::Grant), unsafe { names::existing(kind, object) })
    });
    let mut wanted: Vec<Wanted> = wanted.collect();
    if statement.targtype == pg_sys::GrantTargetType::ACL_TARGET_ALL_IN_SCHEMA {
        // SAFETY: the objects are schemas then.
        wanted.extend(unsafe { swept::granted(statement) });
    }
    if wanted.is_empty() {
        wanted.push(Wanted::named(Action::plain(Verb::Grant), Target::Nothing));
    }
    Needs::of(wanted)
}
