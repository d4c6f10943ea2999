//! The server's own objects: which functions and catalogue relations need a rule, and under which action.
//!
//! Immutable and stable built-in functions are ordinary except the ones listed here; volatile ones need a rule except
//! the ones listed here. Names are those of PostgreSQL 15 to 18 (src/include/catalog/pg_proc.dat, system_views.sql);
//! a name that a version lacks does no harm.

#![forbid(unsafe_code)]

use crate::request::Verb;

/// How a built-in is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Needs no rule.
    Ordinary,
    /// Needs an allow for this action.
    Needs(Verb),
    /// Takes arguments of the pseudo-type internal: for the server's own calls only.
    ServerOnly,
    /// Reaches the relation that its argument names past every rule: for nobody.
    Never,
}

/// Reaches files of the server.
const FILE: &[&str] = &[
    "pg_read_file",
    "pg_read_binary_file",
    "pg_stat_file",
    "lo_import",
    "lo_export",
    "pg_file_write",
    "pg_file_read",
    "pg_file_rename",
    "pg_file_unlink",
    "pg_file_sync",
    "pg_read_file_old",
    "pg_current_logfile",
];
const FILE_PREFIXES: &[&str] = &["pg_ls_"];

/// Reveals others, or the server, or raw values.
const INSPECT: &[&str] = &[
    "pg_get_functiondef",
    "pg_get_function_sqlbody",
    "pg_stat_get_activity",
    "pg_stat_get_backend_activity",
    "pg_stat_get_backend_activity_start",
    "pg_stat_get_backend_client_addr",
    "pg_stat_get_backend_client_port",
    "pg_stat_get_wal_senders",
    "pg_stat_get_wal_receiver",
    "pg_stat_get_subscription",
    "pg_stat_get_progress_info",
    "pg_cursor",
    "pg_prepared_statement",
    "pg_prepared_xact",
    "pg_show_all_file_settings",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_config",
    "pg_get_replication_slots",
    "pg_stat_get_replication_slot",
    "pg_get_shmem_allocations",
    "pg_get_shmem_allocations_numa",
    "pg_get_backend_memory_contexts",
    "pg_mcv_list_items",
    "pg_control_checkpoint",
    "pg_control_system",
    "pg_control_init",
    "pg_control_recovery",
    "pg_show_replication_origin_status",
    "pg_options_to_table",
    "pg_get_aios",
    "pg_get_loaded_modules",
    "pg_log_backend_memory_contexts",
    "pg_sequence_last_value",
    "pg_get_sequence_data",
];

/// Read or change the relation, or index, that their argument names, and no hook hears of it. VACUUM does what those of indexes
/// do, and is decided.
const PAST_RULES: &[&str] = &[
    "currtid",
    "currtid2",
    "brin_summarize_new_values",
    "brin_summarize_range",
    "brin_desummarize_range",
    "gin_clean_pending_list",
];

/// Hand out what was changed in any table of the database.
pub const EVERY_CHANGE: &[&str] = &[
    "pg_logical_slot_get_changes",
    "pg_logical_slot_peek_changes",
    "pg_logical_slot_get_binary_changes",
    "pg_logical_slot_peek_binary_changes",
];

/// Reaches beyond the session.
const SYSTEM: &[&str] = &[
    "pg_terminate_backend",
    "pg_cancel_backend",
    "pg_reload_conf",
    "pg_rotate_logfile",
    "pg_rotate_logfile_old",
    "pg_switch_wal",
    "pg_create_restore_point",
    "pg_backup_start",
    "pg_backup_stop",
    "pg_start_backup",
    "pg_stop_backup",
    "pg_promote",
    "pg_wal_replay_pause",
    "pg_wal_replay_resume",
    "pg_export_snapshot",
    "pg_import_system_collations",
    "pg_logical_emit_message",
    "pg_create_physical_replication_slot",
    "pg_create_logical_replication_slot",
    "pg_drop_replication_slot",
    "pg_copy_physical_replication_slot",
    "pg_copy_logical_replication_slot",
    "pg_replication_slot_advance",
    "pg_sync_replication_slots",
    "pg_nextoid",
    "pg_stop_making_pinned_objects",
    "pg_extension_config_dump",
    "pg_event_trigger_table_rewrite_oid",
    "ts_debug_parser",
];
const SYSTEM_PREFIXES: &[&str] = &[
    "pg_advisory_",
    "pg_try_advisory_",
    "pg_stat_reset",
    "pg_logical_",
    "pg_replication_origin_",
    "binary_upgrade_",
    "pg_restore_",
    "pg_clear_",
    "pg_wal_",
    "pg_walfile_",
];

/// Volatile, and harmless: they change nothing and reveal nothing that is not the agent's own.
const HARMLESS_VOLATILE: &[&str] = &[
    "random",
    "random_normal",
    "array_sample",
    "array_shuffle",
    "setseed",
    "clock_timestamp",
    "timeofday",
    "gen_random_uuid",
    "uuidv4",
    "uuidv7",
    "lastval",
    "pg_relation_size",
    "pg_table_size",
    "pg_indexes_size",
    "pg_total_relation_size",
    "pg_database_size",
    "pg_backend_pid",
    "pg_blocking_pids",
    "pg_current_xact_id_if_assigned",
    "txid_current_if_assigned",
    "pg_is_in_recovery",
    "pg_conf_load_time",
    "pg_my_temp_schema",
    "pg_encoding_to_char",
    "pg_typeof",
    "pg_collation_actual_version",
    "pg_stat_get_numscans",
    "pg_relation_is_publishable",
    "pg_listening_channels",
    "pg_notification_queue_usage",
    "pg_snapshot_xip",
    "pg_partition_tree",
    "pg_partition_ancestors",
    "pg_safe_snapshot_blocking_pids",
    "pg_isolation_test_session_is_blocked",
    "pg_jit_available",
    "inet_client_addr",
    "inet_server_addr",
    // Triggers of the server's own.
    "suppress_redundant_updates_trigger",
    "tsvector_update_trigger",
    "tsvector_update_trigger_column",
];

/// The class of a built-in function by its name, volatility (`i`, `s`, `v`) and whether it takes `internal`.
pub fn function_class(name: &str, volatility: u8, takes_internal: bool) -> Class {
    let within = |names: &[&str], prefixes: &[&str]| {
        names.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
    };
    if takes_internal {
        Class::ServerOnly
    } else if within(PAST_RULES, &[]) {
        Class::Never
    } else if within(FILE, FILE_PREFIXES) {
        Class::Needs(Verb::File)
    } else if within(INSPECT, &[]) {
        Class::Needs(Verb::Inspect)
    } else if within(SYSTEM, SYSTEM_PREFIXES) {
        // pg_wal_lsn_diff and its like are plain arithmetic.
        if matches!(volatility, b'i') { Class::Ordinary } else { Class::Needs(Verb::System) }
    } else if name == "pg_notify" {
        Class::Needs(Verb::Notify)
    } else if matches!(volatility, b'i' | b's') || HARMLESS_VOLATILE.contains(&name) {
        Class::Ordinary
    } else {
        Class::Needs(Verb::Execute)
    }
}

/// Catalogue relations that reveal others or the server, whatever column is read.
const INSPECT_RELATIONS: &[&str] = &[
    "pg_statistic",
    "pg_statistic_ext_data",
    "pg_stats",
    "pg_stats_ext",
    "pg_stats_ext_exprs",
    "pg_stat_activity",
    "pg_stat_replication",
    "pg_stat_wal_receiver",
    "pg_stat_subscription",
    "pg_stat_ssl",
    "pg_stat_gssapi",
    "pg_prepared_statements",
    "pg_prepared_xacts",
    "pg_cursors",
    "pg_user_mapping",
    "pg_user_mappings",
    "pg_file_settings",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_authid",
    "pg_shadow",
    "pg_subscription",
    "pg_replication_slots",
    "pg_stat_replication_slots",
    "pg_config",
    "pg_shmem_allocations",
    "pg_backend_memory_contexts",
    "pg_largeobject",
    "pg_db_role_setting",
    "pg_replication_origin_status",
    "pg_stat_io",
    "user_mapping_options",
    "_pg_user_mappings",
    "foreign_server_options",
    "_pg_foreign_servers",
    "foreign_table_options",
    "pg_aios",
    "pg_shmem_allocations_numa",
];
const INSPECT_RELATION_PREFIXES: &[&str] = &["pg_stat_progress_"];

/// Columns of otherwise ordinary catalogue relations that do.
const INSPECT_COLUMNS: &[(&str, &[&str])] = &[
    ("pg_proc", &["prosrc", "probin", "prosqlbody"]),
    ("pg_settings", &["sourcefile", "sourceline"]),
    ("pg_roles", &["rolconfig"]),
    ("pg_user", &["useconfig"]),
    ("pg_foreign_server", &["srvoptions"]),
    ("pg_foreign_table", &["ftoptions"]),
    ("routines", &["routine_definition"]),
];

/// Columns of a catalogue relation that need `inspect`: every one, some, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarded {
    /// Every column.
    All,
    /// These.
    Columns(&'static [&'static str]),
    /// None.
    Nothing,
}

/// What of a relation of pg_catalog or information_schema needs `inspect`.
pub fn catalogue_relation(name: &str) -> Guarded {
    if INSPECT_RELATIONS.contains(&name)
        || INSPECT_RELATION_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    {
        return Guarded::All;
    }
    match INSPECT_COLUMNS.iter().find(|entry| entry.0 == name) {
        Some(entry) => Guarded::Columns(entry.1),
        None => Guarded::Nothing,
    }
}

/// How SET of a setting is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Any value.
    Harmless,
    /// Only values that are not above the one at login, and not "no limit".
    OnlyLower,
    /// Not below notice: log and debug levels carry plans and rows to the client.
    MessageLevel,
    /// Needs an allow for this action.
    Needs(Verb),
}

const HARMLESS_SETTINGS: &[&str] = &[
    "agent_guard.token",
    "agent_guard.approval_wait",
    "application_name",
    "array_nulls",
    "backslash_quote",
    "bytea_output",
    "client_encoding",
    "constraint_exclusion",
    "cpu_index_tuple_cost",
    "cpu_operator_cost",
    "cpu_tuple_cost",
    "cursor_tuple_fraction",
    "datestyle",
    "default_statistics_target",
    "default_text_search_config",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "effective_cache_size",
    "escape_string_warning",
    "extra_float_digits",
    "from_collapse_limit",
    "geqo",
    "geqo_effort",
    "geqo_generations",
    "geqo_pool_size",
    "geqo_seed",
    "geqo_selection_bias",
    "geqo_threshold",
    "intervalstyle",
    "jit",
    "jit_above_cost",
    "jit_inline_above_cost",
    "jit_optimize_above_cost",
    "join_collapse_limit",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "max_parallel_workers_per_gather",
    "min_parallel_index_scan_size",
    "min_parallel_table_scan_size",
    "parallel_leader_participation",
    "parallel_setup_cost",
    "parallel_tuple_cost",
    "plan_cache_mode",
    "quote_all_identifiers",
    "random_page_cost",
    "search_path",
    "seq_page_cost",
    "standard_conforming_strings",
    "synchronous_commit",
    "timezone",
    "timezone_abbreviations",
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_read_only",
    "xmlbinary",
    "xmloption",
    "seed",
    "names",
];
/// Settings that an agent may only lower, as far as this version has them.
pub const ONLY_LOWER: &[&str] = &[
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
    "work_mem",
    "hash_mem_multiplier",
    "temp_buffers",
];

/// The class of a setting by its name; case does not matter, as in the server.
pub fn setting_class(name: &str) -> Setting {
    let name = name.to_ascii_lowercase();
    let name = name.as_str();
    if HARMLESS_SETTINGS.contains(&name) || name.starts_with("enable_") {
        Setting::Harmless
    } else if ONLY_LOWER.contains(&name) {
        Setting::OnlyLower
    } else if name == "client_min_messages" {
        Setting::MessageLevel
    } else if matches!(name, "role" | "session_authorization") {
        Setting::Needs(Verb::Role)
    } else {
        Setting::Needs(Verb::System)
    }
}

/// Whether a value of client_min_messages shows no more than notices.
pub fn message_level_is_harmless(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "notice" | "warning" | "error" | "fatal" | "panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_ins_that_undo_a_guard_need_a_rule() {
        for (name, verb) in [
            ("pg_read_file", Verb::File),
            ("pg_ls_dir", Verb::File),
            ("lo_import", Verb::File),
            ("pg_terminate_backend", Verb::System),
            ("pg_advisory_lock", Verb::System),
            ("pg_notify", Verb::Notify),
            ("pg_get_functiondef", Verb::Inspect),
            ("pg_sleep", Verb::Execute),
            ("query_to_xml", Verb::Execute),
            ("set_config", Verb::Execute),
            ("nextval", Verb::Execute),
        ] {
            assert_eq!(function_class(name, b'v', false), Class::Needs(verb), "{name}");
        }
        assert_eq!(function_class("currtid2", b'v', false), Class::Never);
        assert_eq!(function_class("gin_clean_pending_list", b'v', false), Class::Never);
        assert_eq!(function_class("pg_stat_get_activity", b's', false), Class::Needs(Verb::Inspect));
        assert_eq!(function_class("int8_avg_accum", b'i', true), Class::ServerOnly);
        assert_eq!(function_class("lower", b'i', false), Class::Ordinary);
        assert_eq!(function_class("now", b's', false), Class::Ordinary);
        assert_eq!(function_class("random", b'v', false), Class::Ordinary);
        assert_eq!(function_class("pg_wal_lsn_diff", b'i', false), Class::Ordinary);
    }

    #[test]
    fn settings_are_harmless_only_by_the_list() {
        assert_eq!(setting_class("DateStyle"), Setting::Harmless);
        assert_eq!(setting_class("Enable_SeqScan"), Setting::Harmless);
        assert_eq!(setting_class("ROLE"), Setting::Needs(Verb::Role));
        assert_eq!(setting_class("session_replication_role"), Setting::Needs(Verb::System));
        assert_eq!(setting_class("row_security"), Setting::Needs(Verb::System));
        assert_eq!(setting_class("debug_print_plan"), Setting::Needs(Verb::System));
        assert_eq!(setting_class("app.tenant"), Setting::Needs(Verb::System));
        assert_eq!(setting_class("statement_timeout"), Setting::OnlyLower);
        assert!(
            !message_level_is_harmless("debug1")
                && !message_level_is_harmless("log")
                && message_level_is_harmless("Warning")
        );
    }

    #[test]
    fn catalogue_columns_that_hold_secrets_are_known() {
        assert_eq!(catalogue_relation("pg_stats"), Guarded::All);
        assert_eq!(catalogue_relation("pg_stat_progress_copy"), Guarded::All);
        assert_eq!(catalogue_relation("pg_class"), Guarded::Nothing);
        assert!(
            matches!(catalogue_relation("pg_proc"), Guarded::Columns(columns) if columns.contains(&"prosrc"))
        );
    }
}
