//! Settings that stand in for pg/guc.rs while the administrative functions are tried by themselves.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

static GUARDED: GucSetting<bool> = GucSetting::<bool>::new(false);
static DEPTH: GucSetting<i32> = GucSetting::<i32>::new(8);

pub fn init() {
    GucRegistry::define_bool_guc(
        c"agent_guard.guarded",
        c"",
        c"",
        &GUARDED,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"agent_guard.max_delegation_depth",
        c"",
        c"",
        &DEPTH,
        0,
        8,
        GucContext::Sighup,
        GucFlags::default(),
    );
}
