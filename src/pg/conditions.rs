//! What a plan tells about a statement: whether it restricts a relation, whether it draws for an identity column, and whether
//! all it does is set the token.
//!
//! Judged on the finished plan, after constants were folded: `WHERE true` and `1 = 1` are gone by then.

use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::gather::names;
use super::text_datum::Text;
use super::walk;
use super::{catalog, own, settings};
use crate::refusal::{Place, Refusal, SqlState};

/// The refusal of a statement without a condition.
pub fn where_refusal(relid: pg_sys::Oid, rule: i64) -> Refusal {
    let object = catalog::relation_object(relid);
    let name = object.as_ref().map(ToString::to_string).unwrap_or_default();
    let place =
        object.map(|object| Place { schema: object.schema, table: object.name, column: String::new() });
    Refusal {
        rule: Some(rule),
        place: place.unwrap_or_default(),
        ..Refusal::new(
            SqlState::InsufficientPrivilege,
            "require_where",
            format!("the statement needs a condition on {name}"),
            format!("rule={rule} object={name} Every row of it would be touched."),
            format!("Add a WHERE clause that restricts the rows of {name}."),
        )
    }
}

/// Whether every scan of the relation, or of one of its children, is restricted: by a condition of its own on one of
/// its columns, or by a join condition above it.
///
/// # Safety
/// `plan` is a complete PlannedStmt.
pub unsafe fn restricts(plan: *mut pg_sys::PlannedStmt, relid: pg_sys::Oid) -> bool {
    // SAFETY: the caller's promise; the plan is only read.
    unsafe {
        let family: Vec<pg_sys::Oid> = std::iter::once(relid).chain(catalog::descendants(relid)).collect();
        let table = names::members((*plan).rtable);
        let of_interest: Vec<u32> = table
            .iter()
            .enumerate()
            .filter(|(_, node)| family.contains(&(*node.cast::<pg_sys::RangeTblEntry>()).relid))
            .filter_map(|(i, _)| u32::try_from(i + 1).ok())
            .collect();
        let mut roots = vec![(*plan).planTree.cast::<pg_sys::Node>()];
        roots.extend(names::members((*plan).subplans));
        roots.into_iter().all(|root| scans_restricted(root.cast(), &of_interest, false))
    }
}

/// How many rows the server expects a statement to change; 0 for one that changes none.
///
/// # Safety
/// `plan` is a complete PlannedStmt.
pub unsafe fn changed_rows(plan: *mut pg_sys::PlannedStmt) -> i64 {
    // SAFETY: the caller's promise. ModifyTable counts what it returns; its outer plan is what it changes.
    unsafe {
        let root = (*plan).planTree;
        if root.is_null() || (*root).type_ != T::T_ModifyTable || (*root).lefttree.is_null() {
            return 0;
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a float beyond the range becomes the nearest number"
        )]
        let rows = (*(*root).lefttree).plan_rows as i64;
        rows
    }
}

/// Whether anything in a plan draws from this sequence for an identity column: an INSERT that leaves the column out, and
/// DEFAULT wherever it may be written. Read off the plan's text, because the server has no walker over the expressions of plans;
/// braces in names and values are escaped there.
///
/// # Safety
/// `plan` is a complete PlannedStmt.
pub unsafe fn draws_for_identity(plan: *mut pg_sys::PlannedStmt, sequence: pg_sys::Oid) -> bool {
    let node = format!("{{NEXTVALUEEXPR :seqid {} ", sequence.to_u32());
    // SAFETY: nodeToString writes a complete plan, NUL-terminated.
    unsafe {
        let text = pg_sys::nodeToString(plan.cast_const().cast());
        memchr::memmem::find(CStr::from_ptr(text).to_bytes(), node.as_bytes()).is_some()
    }
}

unsafe fn scans_restricted(plan: *mut pg_sys::Plan, scans: &[u32], above: bool) -> bool {
    if plan.is_null() {
        return true;
    }
    // SAFETY: every plan node begins with a Plan; the tag decides further casts.
    unsafe {
        let node = &*plan;
        let tag = node.type_;
        let scans_it = scan_index(tag, plan).is_some_and(|scan| scans.contains(&scan));
        if scans_it && !above && !has_condition(tag, plan) {
            return false;
        }
        let (left, right) = joins_on_condition(tag, plan);
        let above = above || one_time_false(tag, plan);
        if !scans_restricted(node.lefttree, scans, above || left)
            || !scans_restricted(node.righttree, scans, above || right)
        {
            return false;
        }
        let mut children: Vec<*mut pg_sys::Plan> = Vec::new();
        let list = |list: *mut pg_sys::List| {
            names::members(list).into_iter().map(|child| child.cast::<pg_sys::Plan>())
        };
        match tag {
            T::T_Append => children.extend(list((*plan.cast::<pg_sys::Append>()).appendplans)),
            T::T_MergeAppend => children.extend(list((*plan.cast::<pg_sys::MergeAppend>()).mergeplans)),
            T::T_SubqueryScan => children.push((*plan.cast::<pg_sys::SubqueryScan>()).subplan),
            T::T_CustomScan => children.extend(list((*plan.cast::<pg_sys::CustomScan>()).custom_plans)),
            _ => {}
        }
        children.into_iter().all(|child| scans_restricted(child, scans, above))
    }
}

/// The range table index of a node that scans a relation.
unsafe fn scan_index(tag: pg_sys::NodeTag, plan: *mut pg_sys::Plan) -> Option<u32> {
    let scans = matches!(
        tag,
        T::T_SeqScan
            | T::T_SampleScan
            | T::T_IndexScan
            | T::T_IndexOnlyScan
            | T::T_BitmapHeapScan
            | T::T_TidScan
            | T::T_TidRangeScan
            | T::T_ForeignScan
            | T::T_CustomScan
    );
    // SAFETY: all of these begin with a Scan.
    scans.then(|| unsafe { (*plan.cast::<pg_sys::Scan>()).scanrelid })
}

unsafe fn has_condition(tag: pg_sys::NodeTag, plan: *mut pg_sys::Plan) -> bool {
    // SAFETY: the tag decides the cast.
    unsafe {
        let extra = match tag {
            T::T_IndexScan => (*plan.cast::<pg_sys::IndexScan>()).indexqualorig,
            T::T_IndexOnlyScan => (*plan.cast::<pg_sys::IndexOnlyScan>()).indexqual,
            T::T_BitmapHeapScan => (*plan.cast::<pg_sys::BitmapHeapScan>()).bitmapqualorig,
            T::T_TidScan => (*plan.cast::<pg_sys::TidScan>()).tidquals,
            T::T_TidRangeScan => (*plan.cast::<pg_sys::TidRangeScan>()).tidrangequals,
            _ => std::ptr::null_mut(),
        };
        [(*plan).qual, extra]
            .into_iter()
            .flat_map(|list| names::members(list))
            .any(|clause| restricting(clause))
    }
}

/// A clause that looks at a column; `x IS NOT NULL`, which `x = x` turns into, does not count.
unsafe fn restricting(clause: *mut pg_sys::Node) -> bool {
    // SAFETY: an expression of the plan; the walker only reads.
    unsafe { (*clause).type_ != T::T_NullTest && mentions_column(clause, std::ptr::null_mut()) }
}

unsafe extern "C-unwind" fn mentions_column(node: *mut pg_sys::Node, context: *mut std::ffi::c_void) -> bool {
    // SAFETY: expression_tree_walker hands valid nodes or null.
    unsafe {
        if node.is_null() {
            return false;
        }
        (*node).type_ == T::T_Var || walk::expression(node, mentions_column, context)
    }
}

/// Which sides of a join its condition restricts, left and right: not the one whose rows an outer join keeps.
unsafe fn joins_on_condition(tag: pg_sys::NodeTag, plan: *mut pg_sys::Plan) -> (bool, bool) {
    use pg_sys::JoinType::{JOIN_FULL, JOIN_LEFT, JOIN_RIGHT};
    // SAFETY: the tag decides the cast; all joins begin with a Join.
    unsafe {
        let on_condition = match tag {
            T::T_HashJoin => !(*plan.cast::<pg_sys::HashJoin>()).hashclauses.is_null(),
            T::T_MergeJoin => !(*plan.cast::<pg_sys::MergeJoin>()).mergeclauses.is_null(),
            T::T_NestLoop => {
                let join = &*plan.cast::<pg_sys::NestLoop>();
                !join.join.joinqual.is_null() || !join.nestParams.is_null()
            }
            _ => false,
        };
        // A condition on the joined rows, such as one of WHERE.
        let is_join = matches!(tag, T::T_HashJoin | T::T_MergeJoin | T::T_NestLoop);
        if is_join && names::members((*plan).qual).into_iter().any(|clause| restricting(clause)) {
            return (true, true);
        }
        if !on_condition {
            return (false, false);
        }
        match (*plan.cast::<pg_sys::Join>()).jointype {
            JOIN_FULL => (false, false),
            JOIN_LEFT => (false, true),
            JOIN_RIGHT => (true, false),
            _ => (true, true),
        }
    }
}

/// A Result node whose one-time filter keeps everything below from running.
///
/// # Safety
/// `plan` is a plan node of that tag.
pub unsafe fn one_time_false(tag: pg_sys::NodeTag, plan: *mut pg_sys::Plan) -> bool {
    // SAFETY: the tag decides the cast.
    unsafe {
        tag == T::T_Result
            && names::members((*plan.cast::<pg_sys::Result>()).resconstantqual.cast()).into_iter().any(
                |clause| {
                    (*clause).type_ == T::T_Const && {
                        let constant = &*clause.cast::<pg_sys::Const>();
                        constant.constisnull || constant.constvalue.value() == 0
                    }
                },
            )
    }
}

/// Whether all that a plan does is `SELECT set_config('agent_guard.token', ..., ...)`: the one query that a guarded
/// session without a token may run.
///
/// # Safety
/// `plan` is a complete PlannedStmt.
pub unsafe fn only_sets_the_token(plan: *mut pg_sys::PlannedStmt) -> bool {
    // SAFETY: the caller's promise; the plan is only read.
    unsafe {
        let plan = &*plan;
        let tree = plan.planTree;
        if tree.is_null()
            || (*tree).type_ != T::T_Result
            || !(*tree).lefttree.is_null()
            || !(*tree).qual.is_null()
            || !(*tree.cast::<pg_sys::Result>()).resconstantqual.is_null()
            || !plan.subplans.is_null()
        {
            return false;
        }
        let targets = names::members((*tree).targetlist);
        let [target] = targets.as_slice() else { return false };
        let expression = (*target.cast::<pg_sys::TargetEntry>()).expr.cast::<pg_sys::Node>();
        if expression.is_null() || (*expression).type_ != T::T_FuncExpr {
            return false;
        }
        let call = &*expression.cast::<pg_sys::FuncExpr>();
        let arguments = names::members(call.args);
        own::own().is_some_and(|own| own.stand_ins.set_config == call.funcid)
            && arguments.iter().all(|argument| matches!((**argument).type_, T::T_Const | T::T_Param))
            && arguments
                .first()
                .is_some_and(|name| constant_text(*name).is_some_and(|name| settings::is_token(&name)))
    }
}

/// The text of a constant; `None` for NULL and for anything that is no constant text.
///
/// # Safety
/// `node` is an expression node.
pub unsafe fn constant_text(node: *mut pg_sys::Node) -> Option<String> {
    use pgrx::FromDatum;
    // SAFETY: the tag and the type decide the conversion.
    unsafe {
        if (*node).type_ != T::T_Const {
            return None;
        }
        let constant = &*node.cast::<pg_sys::Const>();
        if constant.consttype != pg_sys::TEXTOID {
            return None;
        }
        Text::from_datum(constant.constvalue, constant.constisnull).map(|text| text.0)
    }
}
