//! The relations that a utility statement names, with the lock that it is about to take on each. Decides nothing.
//!
//! No weaker than the server's own, because two that ask for more later wait for each other, and in the order in which the server
//! takes them. Not here: what is decided on what it reached (queries, COPY, drops, truncates), what waits for nothing
//! (NOWAIT, SKIP LOCKED), and REINDEX INDEX and ALTER INDEX ... ATTACH PARTITION, which lock the index's table before.

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::version;
use super::names;

/// A relation by name.
pub struct Named {
    /// Its name.
    pub range: *mut pg_sys::RangeVar,
    /// The lock that the statement takes on it.
    pub lock: u32,
    /// For whom.
    pub by: By,
}

/// Who may take the lock, as the server sees it.
#[derive(Clone, Copy)]
pub enum By {
    /// The relation's owner.
    Owner,
    /// Its owner, and whoever has one of these privileges.
    Privileged(pg_sys::AclMode),
    /// Everybody: the server asks when it has the lock.
    Anybody,
}

/// What a statement locks by name.
///
/// # Safety
/// `node` is a valid utility statement, which outlives the result's use.
pub unsafe fn named(node: *mut pg_sys::Node) -> Vec<Named> {
    // SAFETY: the caller's promise; the tag decides each cast.
    unsafe {
        match (*node).type_ {
            T::T_AlterTableStmt => alter_table(&*node.cast()),
            T::T_CreateStmt => create_table(&*node.cast()),
            T::T_CreateForeignTableStmt => {
                create_table(&(*node.cast::<pg_sys::CreateForeignTableStmt>()).base)
            }
            T::T_ViewStmt => {
                let statement = &*node.cast::<pg_sys::ViewStmt>();
                let replaced = if statement.replace { statement.view } else { std::ptr::null_mut() };
                owned(replaced, pg_sys::AccessExclusiveLock)
            }
            T::T_RenameStmt => {
                let statement = &*node.cast::<pg_sys::RenameStmt>();
                let index = statement.renameType == pg_sys::ObjectType::OBJECT_INDEX;
                let lock = if index { pg_sys::ShareUpdateExclusiveLock } else { pg_sys::AccessExclusiveLock };
                owned(statement.relation, lock)
            }
            T::T_AlterObjectSchemaStmt => {
                owned((*node.cast::<pg_sys::AlterObjectSchemaStmt>()).relation, pg_sys::AccessExclusiveLock)
            }
            T::T_AlterSeqStmt => {
                owned((*node.cast::<pg_sys::AlterSeqStmt>()).sequence, pg_sys::ShareRowExclusiveLock)
            }
            T::T_IndexStmt => {
                let statement = &*node.cast::<pg_sys::IndexStmt>();
                let lock =
                    if statement.concurrent { pg_sys::ShareUpdateExclusiveLock } else { pg_sys::ShareLock };
                owned(statement.relation, lock)
            }
            T::T_CreateTrigStmt => {
                let range = (*node.cast::<pg_sys::CreateTrigStmt>()).relation;
                one(range, pg_sys::ShareRowExclusiveLock, By::Privileged(version::ACL_TRIGGER))
            }
            T::T_RuleStmt => owned((*node.cast::<pg_sys::RuleStmt>()).relation, pg_sys::AccessExclusiveLock),
            T::T_CreatePolicyStmt => {
                owned((*node.cast::<pg_sys::CreatePolicyStmt>()).table, pg_sys::AccessExclusiveLock)
            }
            T::T_AlterPolicyStmt => {
                owned((*node.cast::<pg_sys::AlterPolicyStmt>()).table, pg_sys::AccessExclusiveLock)
            }
            T::T_CreateStatsStmt => names::members((*node.cast::<pg_sys::CreateStatsStmt>()).relations)
                .into_iter()
                .filter(|range| (**range).type_ == T::T_RangeVar)
                .flat_map(|range| owned(range.cast(), pg_sys::ShareUpdateExclusiveLock))
                .collect(),
            T::T_GrantStmt => grant(&*node.cast()),
            T::T_CommentStmt => comment(&*node.cast()),
            T::T_LockStmt => lock_table(&*node.cast()),
            T::T_ClusterStmt => {
                owned((*node.cast::<pg_sys::ClusterStmt>()).relation, pg_sys::AccessExclusiveLock)
            }
            T::T_RefreshMatViewStmt => {
                let statement = &*node.cast::<pg_sys::RefreshMatViewStmt>();
                let lock =
                    if statement.concurrent { pg_sys::ExclusiveLock } else { pg_sys::AccessExclusiveLock };
                owned(statement.relation, lock)
            }
            T::T_ReindexStmt => reindex(&*node.cast()),
            T::T_VacuumStmt => vacuum(&*node.cast()),
            _ => Vec::new(),
        }
    }
}

fn one(range: *mut pg_sys::RangeVar, lock: u32, by: By) -> Vec<Named> {
    if range.is_null() { Vec::new() } else { vec![Named { range, lock, by }] }
}

fn owned(range: *mut pg_sys::RangeVar, lock: u32) -> Vec<Named> {
    one(range, lock, By::Owner)
}

/// ATExecAttachPartition, ATExecDetachPartition, ATExecDetachPartitionFinalize, ATExecAddInherit and ATExecDropInherit in
/// tablecmds.c.
unsafe fn alter_table(statement: &pg_sys::AlterTableStmt) -> Vec<Named> {
    use pg_sys::AlterTableType as A;
    if statement.objtype == pg_sys::ObjectType::OBJECT_TYPE {
        return Vec::new();
    }
    // SAFETY: subcommands are AlterTableCmd nodes, whose definitions have the types that gram.y gives them.
    unsafe {
        let lock = pg_sys::AlterTableGetLockLevel(statement.cmds);
        let mut found = owned(statement.relation, lock.cast_unsigned());
        if statement.objtype == pg_sys::ObjectType::OBJECT_INDEX {
            return found;
        }
        for node in names::members(statement.cmds) {
            let command = &*node.cast::<pg_sys::AlterTableCmd>();
            let others = match command.subtype {
                A::AT_AttachPartition | A::AT_DetachPartition | A::AT_DetachPartitionFinalize => {
                    let partition = &*command.def.cast::<pg_sys::PartitionCmd>();
                    let weaker = command.subtype == A::AT_DetachPartition && partition.concurrent;
                    let lock =
                        if weaker { pg_sys::ShareUpdateExclusiveLock } else { pg_sys::AccessExclusiveLock };
                    one(partition.name, lock, By::Anybody)
                }
                A::AT_AddInherit => one(command.def.cast(), pg_sys::ShareUpdateExclusiveLock, By::Anybody),
                A::AT_DropInherit => one(command.def.cast(), pg_sys::AccessShareLock, By::Anybody),
                A::AT_AddConstraint | A::AT_AddColumn => referenced(command.def),
                _ => Vec::new(),
            };
            found.extend(others);
        }
        found
    }
}

/// DefineRelation in tablecmds.c.
unsafe fn create_table(statement: &pg_sys::CreateStmt) -> Vec<Named> {
    let partition = !statement.partbound.is_null();
    let lock = if partition { pg_sys::AccessExclusiveLock } else { pg_sys::ShareUpdateExclusiveLock };
    // SAFETY: lists as the grammar builds them.
    unsafe {
        let parents = names::members(statement.inhRelations).into_iter();
        let elements = names::members(statement.tableElts).into_iter();
        let constraints = names::members(statement.constraints).into_iter();
        let keys = elements.chain(constraints).flat_map(|element| referenced(element));
        parents.flat_map(|parent| one(parent.cast(), lock, By::Anybody)).chain(keys).collect()
    }
}

/// ATAddForeignKeyConstraint in tablecmds.c.
unsafe fn referenced(element: *mut pg_sys::Node) -> Vec<Named> {
    // SAFETY: the caller's node of a parse tree.
    let tables = unsafe { names::referenced(element) }.into_iter();
    tables.flat_map(|table| one(table, pg_sys::ShareRowExclusiveLock, By::Anybody)).collect()
}

/// objectNamesToOids in aclchk.c takes none, and so may meet another relation than was decided on: the weakest that holds a name.
unsafe fn grant(statement: &pg_sys::GrantStmt) -> Vec<Named> {
    use pg_sys::ObjectType::{OBJECT_SEQUENCE, OBJECT_TABLE};
    let named = statement.targtype == pg_sys::GrantTargetType::ACL_TARGET_OBJECT
        && matches!(statement.objtype, OBJECT_TABLE | OBJECT_SEQUENCE);
    // SAFETY: for tables and sequences the objects are RangeVars.
    let objects = if named { unsafe { names::members(statement.objects) } } else { Vec::new() };
    objects.into_iter().flat_map(|range| one(range.cast(), pg_sys::AccessShareLock, By::Anybody)).collect()
}

/// CommentObject in comment.c and get_object_address in objectaddress.c.
unsafe fn comment(statement: &pg_sys::CommentStmt) -> Vec<Named> {
    // SAFETY: for kinds of relations, and their parts, the object is a list of String nodes.
    unsafe {
        let Some(relation) = names::of_relation(statement.objtype, statement.object) else {
            return Vec::new();
        };
        let lock = match statement.objtype {
            kind if names::is_relation(kind) => pg_sys::ShareUpdateExclusiveLock,
            pg_sys::ObjectType::OBJECT_COLUMN => pg_sys::ShareUpdateExclusiveLock,
            _ => pg_sys::AccessShareLock,
        };
        one(pg_sys::makeRangeVarFromNameList(relation), lock, By::Anybody)
    }
}

/// RangeVarCallbackForLockTable in lockcmds.c, as on 15: later servers take MAINTAIN too.
unsafe fn lock_table(statement: &pg_sys::LockStmt) -> Vec<Named> {
    if statement.nowait {
        return Vec::new();
    }
    let lock = statement.mode.cast_unsigned();
    let changes = pg_sys::ACL_UPDATE | pg_sys::ACL_DELETE | pg_sys::ACL_TRUNCATE;
    let privileges = match lock {
        pg_sys::AccessShareLock => pg_sys::ACL_SELECT,
        pg_sys::RowExclusiveLock => pg_sys::ACL_INSERT | changes,
        _ => changes,
    };
    let by = By::Privileged(pg_sys::AclMode::from(privileges));
    // SAFETY: a list of RangeVars.
    unsafe { names::members(statement.relations) }
        .into_iter()
        .flat_map(|range| one(range.cast(), lock, by))
        .collect()
}

/// ReindexTable in indexcmds.c.
unsafe fn reindex(statement: &pg_sys::ReindexStmt) -> Vec<Named> {
    if statement.kind != pg_sys::ReindexObjectType::REINDEX_OBJECT_TABLE {
        return Vec::new();
    }
    // SAFETY: a list of DefElems.
    let concurrent = unsafe { names::is_set(statement.params, "concurrently") };
    let lock = if concurrent { pg_sys::ShareUpdateExclusiveLock } else { pg_sys::ShareLock };
    owned(statement.relation, lock)
}

/// expand_vacuum_rel in vacuum.c: by name in the first transaction, by OID in those that follow.
unsafe fn vacuum(statement: &pg_sys::VacuumStmt) -> Vec<Named> {
    // SAFETY: lists of DefElems and of VacuumRelations.
    unsafe {
        if names::is_set(statement.options, "skip_locked") {
            return Vec::new();
        }
        names::members(statement.rels)
            .into_iter()
            .flat_map(|node| {
                owned((*node.cast::<pg_sys::VacuumRelation>()).relation, pg_sys::AccessShareLock)
            })
            .collect()
    }
}
