-- A database of schema version 2: what that version's payproc recorded on top of one of version 1,
-- and pg_dump wrote. Never edit it.

SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;

CREATE SCHEMA payproc;

CREATE TYPE payproc.event_type AS ENUM (
    'authorize',
    'capture',
    'refund',
    'fail',
    'flag'
);

CREATE TYPE payproc.outcome AS ENUM (
    'APPLY',
    'IGNORE',
    'REJECT',
    'MANUAL_REVIEW'
);

CREATE TYPE payproc.reason AS ENUM (
    'event_id_conflict',
    'duplicate_event',
    'transition',
    'already_in_state',
    'superseded',
    'payment_failed',
    'predecessor_missing',
    'failure_after_capture',
    'capture_after_refund',
    'repeated_refund',
    'authorize_after_failure',
    'flagged'
);

CREATE TYPE payproc.resolution AS ENUM (
    'apply',
    'dismiss'
);

CREATE TYPE payproc.state AS ENUM (
    'created',
    'authorized',
    'captured',
    'refunded',
    'failed'
);

CREATE PROCEDURE payproc.record_decisions(IN in_run_id bigint, IN in_sources text, IN in_lines text, IN in_event_ids text, IN in_payment_ids text, IN in_kinds text, IN in_types text, IN in_versions text, IN in_outcomes text, IN in_reasons text, IN in_befores text, IN in_afters text, IN in_payloads text, INOUT contested text)
    LANGUAGE plpgsql
    AS $$
DECLARE
    separator CONSTANT text := chr(31);
    kind_types CONSTANT payproc.event_type[] := string_to_array(in_types, separator)::payproc.event_type[];
    kind_outcomes CONSTANT payproc.outcome[] := string_to_array(in_outcomes, separator)::payproc.outcome[];
    kind_reasons CONSTANT payproc.reason[] := string_to_array(in_reasons, separator)::payproc.reason[];
    kind_befores CONSTANT payproc.state[] := string_to_array(in_befores, separator)::payproc.state[];
    kind_afters CONSTANT payproc.state[] := string_to_array(in_afters, separator)::payproc.state[];
    this_place bigint;
    this_source integer;
    this_line bigint;
    this_event text;
    this_payment text;
    this_type payproc.event_type;
    this_version integer;
    this_outcome payproc.outcome;
    this_reason payproc.reason;
    this_before payproc.state;
    this_after payproc.state;
    this_payload json;
    new_version integer;
    written bigint;
    contested_places text[] := '{}';
    contested_payments text[] := '{}';
BEGIN
    -- Plans made while the table was small scan it for every event. A pooled session may hold such
    -- plans.
    DISCARD PLANS;

    FOR this_place, this_source, this_line, this_event, this_payment, this_type, this_version,
        this_outcome, this_reason, this_before, this_after, this_payload
    IN
        SELECT batch.place, batch.source::integer, batch.line::bigint, batch.event, batch.payment,
               kind_types[batch.kind::integer], batch.version::integer,
               kind_outcomes[batch.kind::integer], kind_reasons[batch.kind::integer],
               kind_befores[batch.kind::integer], kind_afters[batch.kind::integer], batch.payload::json
        FROM unnest(
            string_to_array(in_sources, separator),
            string_to_array(in_lines, separator),
            string_to_array(in_event_ids, separator),
            string_to_array(in_payment_ids, separator),
            string_to_array(in_kinds, separator),
            string_to_array(in_versions, separator),
            string_to_array(in_payloads, separator)
        ) WITH ORDINALITY AS batch(
            source, line, event, payment, kind, version, payload, place
        )
    LOOP
        SET LOCAL synchronous_commit = off;

        -- Evidence of an event_id used for something else. It changes no payment, and a repeat adds
        -- nothing.
        IF this_reason OPERATOR(pg_catalog.=) 'event_id_conflict' THEN
            SELECT original.position INTO new_version FROM payproc.events AS original
            WHERE original.event_id = this_event
              AND (original.payment_id <> this_payment OR original.type OPERATOR(pg_catalog.<>) this_type);
            IF new_version IS NOT NULL THEN
                INSERT INTO payproc.event_conflicts (event_id, payment_id, type, run_id, source, line, payload)
                VALUES (this_event, this_payment, this_type, in_run_id, this_source, this_line, this_payload)
                ON CONFLICT DO NOTHING;
            END IF;
            COMMIT;
            CONTINUE;
        END IF;

        IF this_version = 0 THEN
            INSERT INTO payproc.payments (payment_id, state, version) VALUES (this_payment, this_after, 1);
            GET DIAGNOSTICS new_version = ROW_COUNT;
        ELSE
            UPDATE payproc.payments
            SET state = this_after, version = this_version + 1,
                state_since = CASE WHEN this_after OPERATOR(pg_catalog.=) this_before THEN payments.state_since ELSE now() END
            WHERE payments.payment_id = this_payment
              AND payments.version = this_version
              AND payments.state OPERATOR(pg_catalog.=) this_before
              AND this_payment <> ALL (contested_payments)
            RETURNING payments.version INTO new_version;
        END IF;

        IF new_version > 0 THEN
            INSERT INTO payproc.events (event_id, payment_id, position, type, outcome, reason,
                                        state_before, state_after, run_id, source, line, payload)
            VALUES (this_event, this_payment, new_version, this_type, this_outcome, this_reason,
                    this_before, this_after, in_run_id, this_source, this_line, this_payload);
            GET DIAGNOSTICS written = ROW_COUNT;
            IF written = 0 THEN
                RAISE EXCEPTION 'a trigger or rule of payproc.events has swallowed an event';
            END IF;
        ELSE
            contested_places := pg_catalog.array_append(contested_places, this_place::text);
            contested_payments := pg_catalog.array_append(contested_payments, this_payment);
        END IF;
        COMMIT;
    END LOOP;

    contested := pg_catalog.array_to_string(contested_places, ',');
    IF pg_catalog.current_setting('synchronous_commit') = 'off' THEN
        SET LOCAL synchronous_commit = local;
    END IF;
    PERFORM pg_catalog.pg_logical_emit_message(true, 'payproc', ''::text);
    SET LOCAL client_min_messages = warning;
    RAISE INFO 'payproc: commit';
END
$$;

CREATE TABLE payproc.corrections (
    payment_id text NOT NULL COLLATE pg_catalog."C",
    "position" integer NOT NULL,
    state_before payproc.state NOT NULL,
    state_after payproc.state NOT NULL,
    note text NOT NULL,
    corrected_by text NOT NULL,
    corrected_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE payproc.event_conflicts (
    event_id text NOT NULL COLLATE pg_catalog."C",
    payment_id text NOT NULL COLLATE pg_catalog."C",
    type payproc.event_type NOT NULL,
    source integer NOT NULL,
    run_id bigint NOT NULL,
    line bigint NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL,
    payload json NOT NULL
);

CREATE TABLE payproc.events (
    event_id text NOT NULL COLLATE pg_catalog."C",
    payment_id text NOT NULL COLLATE pg_catalog."C",
    "position" integer NOT NULL,
    type payproc.event_type NOT NULL,
    outcome payproc.outcome NOT NULL,
    reason payproc.reason NOT NULL,
    state_before payproc.state NOT NULL,
    state_after payproc.state NOT NULL,
    source integer NOT NULL,
    run_id bigint NOT NULL,
    line bigint NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL,
    payload json NOT NULL
);

CREATE TABLE payproc.payments (
    payment_id text NOT NULL COLLATE pg_catalog."C",
    state payproc.state NOT NULL,
    version integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    state_since timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='90');

CREATE TABLE payproc.resolutions (
    event_id text NOT NULL COLLATE pg_catalog."C",
    payment_id text NOT NULL COLLATE pg_catalog."C",
    "position" integer NOT NULL,
    resolution payproc.resolution NOT NULL,
    state_before payproc.state NOT NULL,
    state_after payproc.state NOT NULL,
    note text NOT NULL,
    resolved_by text NOT NULL,
    resolved_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE payproc.runs (
    run_id bigint NOT NULL,
    sources text[] NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    active_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone,
    lines bigint DEFAULT '0'::bigint NOT NULL,
    malformed bigint DEFAULT '0'::bigint NOT NULL,
    applied bigint DEFAULT '0'::bigint NOT NULL,
    ignored bigint DEFAULT '0'::bigint NOT NULL,
    rejected bigint DEFAULT '0'::bigint NOT NULL,
    manual_review bigint DEFAULT '0'::bigint NOT NULL,
    label text
);

COMMENT ON TABLE payproc.runs IS 'payproc schema version 2, procedure 80309f8abf4e35e8';

ALTER TABLE payproc.runs ALTER COLUMN run_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME payproc.runs_run_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

INSERT INTO payproc.corrections VALUES
	('pay_failed', 6, 'failed', 'captured', 'the bank''s: 100 %, \o/', 'ops', '2026-11-26 04:04:15.967196+00');

INSERT INTO payproc.event_conflicts VALUES
	('evt_1', 'pay_other', 'authorize', 0, 1, 27, '2026-11-25 21:32:53.737574+00', '{"event_id": "evt_1", "payment_id": "pay_other", "type": "authorize"}'),
	('evt_1', 'pay_authorized', 'capture', 0, 1, 28, '2026-11-25 21:32:53.737957+00', '{"event_id": "evt_1", "payment_id": "pay_authorized", "type": "capture"}'),
	('evt_2', 'pay_captured', 'fail', 0, 1, 29, '2026-11-25 21:32:53.738021+00', '{"event_id": "evt_2", "payment_id": "pay_captured", "type": "fail"}'),
	('evt_51', 'pay_other', 'flag', 0, 5, 6, '2026-11-26 04:04:15.679852+00', '{"event_id": "evt_51", "payment_id": "pay_other", "type": "flag"}');

INSERT INTO payproc.events VALUES
	('evt_1', 'pay_authorized', 1, 'authorize', 'APPLY', 'transition', 'created', 'authorized', 0, 1, 1, '2026-11-25 21:32:53.734675+00', '{"event_id": "evt_1", "payment_id": "pay_authorized", "type": "authorize", "amount": "12.50"}'),
	('evt_2', 'pay_captured', 1, 'authorize', 'APPLY', 'transition', 'created', 'authorized', 0, 1, 2, '2026-11-25 21:32:53.736615+00', '{"event_id": "evt_2", "payment_id": "pay_captured", "type": "authorize"}'),
	('evt_3', 'pay_captured', 2, 'capture', 'APPLY', 'transition', 'authorized', 'captured', 0, 1, 3, '2026-11-25 21:32:53.736665+00', '{"event_id": "evt_3", "payment_id": "pay_captured", "type": "capture"}'),
	('evt_4', 'pay_refunded', 1, 'authorize', 'APPLY', 'transition', 'created', 'authorized', 0, 1, 4, '2026-11-25 21:32:53.736901+00', '{"event_id": "evt_4", "payment_id": "pay_refunded", "type": "authorize"}'),
	('evt_5', 'pay_refunded', 2, 'capture', 'APPLY', 'transition', 'authorized', 'captured', 0, 1, 5, '2026-11-25 21:32:53.736939+00', '{"event_id": "evt_5", "payment_id": "pay_refunded", "type": "capture"}'),
	('evt_6', 'pay_refunded', 3, 'refund', 'APPLY', 'transition', 'captured', 'refunded', 0, 1, 6, '2026-11-25 21:32:53.736994+00', '{"event_id": "evt_6", "payment_id": "pay_refunded", "type": "refund"}'),
	('evt_7', 'pay_failed', 1, 'fail', 'APPLY', 'transition', 'created', 'failed', 0, 1, 7, '2026-11-25 21:32:53.73704+00', '{"event_id": "evt_7", "payment_id": "pay_failed", "type": "fail"}'),
	('evt_8', 'pay_failed_later', 1, 'authorize', 'APPLY', 'transition', 'created', 'authorized', 0, 1, 8, '2026-11-25 21:32:53.737065+00', '{"event_id": "evt_8", "payment_id": "pay_failed_later", "type": "authorize"}'),
	('evt_9', 'pay_failed_later', 2, 'fail', 'APPLY', 'transition', 'authorized', 'failed', 0, 1, 9, '2026-11-25 21:32:53.737088+00', '{"event_id": "evt_9", "payment_id": "pay_failed_later", "type": "fail"}'),
	('evt_10', 'pay_created', 1, 'capture', 'MANUAL_REVIEW', 'predecessor_missing', 'created', 'created', 0, 1, 10, '2026-11-25 21:32:53.737132+00', '{"event_id": "evt_10", "payment_id": "pay_created", "type": "capture"}'),
	('evt_11', 'pay_created_twice', 1, 'refund', 'MANUAL_REVIEW', 'predecessor_missing', 'created', 'created', 0, 1, 11, '2026-11-25 21:32:53.737189+00', '{"event_id": "evt_11", "payment_id": "pay_created_twice", "type": "refund"}'),
	('evt_12', 'pay_created_twice', 2, 'capture', 'MANUAL_REVIEW', 'predecessor_missing', 'created', 'created', 0, 1, 12, '2026-11-25 21:32:53.73721+00', '{"event_id": "evt_12", "payment_id": "pay_created_twice", "type": "capture"}'),
	('evt_13', 'pay_captured', 3, 'capture', 'IGNORE', 'already_in_state', 'captured', 'captured', 0, 1, 13, '2026-11-25 21:32:53.737306+00', '{"event_id": "evt_13", "payment_id": "pay_captured", "type": "capture"}'),
	('evt_14', 'pay_captured', 4, 'authorize', 'IGNORE', 'superseded', 'captured', 'captured', 0, 1, 14, '2026-11-25 21:32:53.737357+00', '{"event_id": "evt_14", "payment_id": "pay_captured", "type": "authorize"}'),
	('evt_15', 'pay_failed', 2, 'fail', 'IGNORE', 'already_in_state', 'failed', 'failed', 0, 1, 15, '2026-11-25 21:32:53.737385+00', '{"event_id": "evt_15", "payment_id": "pay_failed", "type": "fail"}'),
	('evt_16', 'pay_failed', 3, 'capture', 'REJECT', 'payment_failed', 'failed', 'failed', 0, 1, 16, '2026-11-25 21:32:53.737403+00', '{"event_id": "evt_16", "payment_id": "pay_failed", "type": "capture"}'),
	('evt_17', 'pay_failed', 4, 'refund', 'REJECT', 'payment_failed', 'failed', 'failed', 0, 1, 17, '2026-11-25 21:32:53.73742+00', '{"event_id": "evt_17", "payment_id": "pay_failed", "type": "refund"}'),
	('evt_18', 'pay_failed', 5, 'authorize', 'MANUAL_REVIEW', 'authorize_after_failure', 'failed', 'failed', 0, 1, 18, '2026-11-25 21:32:53.737437+00', '{"event_id": "evt_18", "payment_id": "pay_failed", "type": "authorize"}'),
	('evt_19', 'pay_refunded', 4, 'capture', 'MANUAL_REVIEW', 'capture_after_refund', 'refunded', 'refunded', 0, 1, 19, '2026-11-25 21:32:53.737455+00', '{"event_id": "evt_19", "payment_id": "pay_refunded", "type": "capture"}'),
	('evt_20', 'pay_refunded', 5, 'refund', 'MANUAL_REVIEW', 'repeated_refund', 'refunded', 'refunded', 0, 1, 20, '2026-11-25 21:32:53.737472+00', '{"event_id": "evt_20", "payment_id": "pay_refunded", "type": "refund"}'),
	('evt_21', 'pay_refunded', 6, 'fail', 'MANUAL_REVIEW', 'failure_after_capture', 'refunded', 'refunded', 0, 1, 21, '2026-11-25 21:32:53.737489+00', '{"event_id": "evt_21", "payment_id": "pay_refunded", "type": "fail"}'),
	('evt_22', 'pay_refunded', 7, 'authorize', 'IGNORE', 'superseded', 'refunded', 'refunded', 0, 1, 22, '2026-11-25 21:32:53.737506+00', '{"event_id": "evt_22", "payment_id": "pay_refunded", "type": "authorize"}'),
	('evt_23', 'pay_captured', 5, 'fail', 'MANUAL_REVIEW', 'failure_after_capture', 'captured', 'captured', 0, 1, 23, '2026-11-25 21:32:53.737523+00', '{"event_id": "evt_23", "payment_id": "pay_captured", "type": "fail"}'),
	('evt_24', 'pay_authorized', 2, 'authorize', 'IGNORE', 'already_in_state', 'authorized', 'authorized', 0, 1, 24, '2026-11-25 21:32:53.73754+00', '{"event_id": "evt_24", "payment_id": "pay_authorized", "type": "authorize"}'),
	('evt_25', 'pay_authorized', 3, 'refund', 'MANUAL_REVIEW', 'predecessor_missing', 'authorized', 'authorized', 0, 1, 25, '2026-11-25 21:32:53.737556+00', '{"event_id": "evt_25", "payment_id": "pay_authorized", "type": "refund"}'),
	('evt_''quoted''', 'pay_''; DROP TABLE payproc.events; --', 1, 'authorize', 'APPLY', 'transition', 'created', 'authorized', 0, 1, 30, '2026-11-25 21:32:53.738062+00', '{"event_id": "evt_''quoted''", "payment_id": "pay_''; DROP TABLE payproc.events; --", "type": "authorize"}'),
	('evt_"double"', 'pay_"double"', 1, 'authorize', 'APPLY', 'transition', 'created', 'authorized', 0, 1, 31, '2026-11-25 21:32:53.738095+00', '{"event_id": "evt_\"double\"", "payment_id": "pay_\"double\"", "type": "authorize"}'),
	('evt_\back\', 'pay_\n\.\', 1, 'authorize', 'APPLY', 'transition', 'created', 'authorized', 0, 1, 32, '2026-11-25 21:32:53.738113+00', '{"event_id": "evt_\\back\\", "payment_id": "pay_\\n\\.\\", "type": "authorize"}'),
	('évt_платёж_支付', 'päy_😀', 1, 'authorize', 'APPLY', 'transition', 'created', 'authorized', 0, 1, 33, '2026-11-25 21:32:53.738129+00', '{"event_id": "évt_платёж_支付", "payment_id": "päy_😀", "type": "authorize"}'),
	('évt', 'päy', 1, 'capture', 'MANUAL_REVIEW', 'predecessor_missing', 'created', 'created', 0, 1, 34, '2026-11-25 21:32:53.738144+00', '{"event_id": "évt", "payment_id": "päy", "type": "capture"}'),
	('{1,NULL}', '$1 %s %(x)s $$ $procedure$', 1, 'authorize', 'APPLY', 'transition', 'created', 'authorized', 0, 1, 35, '2026-11-25 21:32:53.738162+00', '{"event_id": "{1,NULL}", "payment_id": "$1 %s %(x)s $$ $procedure$", "type": "authorize"}'),
	('‮evt', '​pay​', 1, 'fail', 'APPLY', 'transition', 'created', 'failed', 0, 1, 36, '2026-11-25 21:32:53.738177+00', '{"event_id": "‮evt", "payment_id": "​pay​", "type": "fail"}'),
	('xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy', 1, 'authorize', 'APPLY', 'transition', 'created', 'authorized', 0, 1, 37, '2026-11-25 21:32:53.738193+00', '{"event_id": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "payment_id": "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy", "type": "authorize"}'),
	('€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€', '😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀', 1, 'capture', 'MANUAL_REVIEW', 'predecessor_missing', 'created', 'created', 0, 1, 38, '2026-11-25 21:32:53.738211+00', '{"event_id": "€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€", "payment_id": "😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀", "type": "capture"}'),
	('pay 1', 'evt  1', 1, 'fail', 'APPLY', 'transition', 'created', 'failed', 0, 1, 39, '2026-11-25 21:32:53.738648+00', '{"event_id": "pay 1", "payment_id": "evt  1", "type": "fail"}'),
	('evt_verbatim', 'pay_verbatim', 1, 'authorize', 'APPLY', 'transition', 'created', 'authorized', 0, 1, 42, '2026-11-25 21:32:53.738674+00', ' { "event_id":"evt_verbatim", "payment_id" : "pay_verbatim",	"type":"authorize","amount":1.50,"x":[true,null,{"a":"\u00e9\n''\\"}] } '),
	('evt_30', 'pay_captured', 7, 'authorize', 'MANUAL_REVIEW', 'authorize_after_failure', 'failed', 'failed', 0, 2, 1, '2026-11-25 21:32:54.69662+00', '{"event_id": "evt_30", "payment_id": "pay_captured", "type": "authorize"}'),
	('evt_31', 'pay_created_applied', 1, 'capture', 'MANUAL_REVIEW', 'predecessor_missing', 'created', 'created', 0, 2, 2, '2026-11-25 21:32:54.698837+00', '{"event_id": "evt_31", "payment_id": "pay_created_applied", "type": "capture"}'),
	('evt_32', 'pay_created_applied', 2, 'authorize', 'APPLY', 'transition', 'created', 'authorized', 0, 2, 3, '2026-11-25 21:32:54.69892+00', '{"event_id": "evt_32", "payment_id": "pay_created_applied", "type": "authorize"}'),
	('evt_33', 'pay_two_moves', 1, 'capture', 'MANUAL_REVIEW', 'predecessor_missing', 'created', 'created', 0, 2, 4, '2026-11-25 21:32:54.699004+00', '{"event_id": "evt_33", "payment_id": "pay_two_moves", "type": "capture"}'),
	('evt_34', 'pay_two_moves', 2, 'refund', 'MANUAL_REVIEW', 'predecessor_missing', 'created', 'created', 0, 2, 5, '2026-11-25 21:32:54.699046+00', '{"event_id": "evt_34", "payment_id": "pay_two_moves", "type": "refund"}'),
	('evt_35', 'pay_dismissed', 1, 'authorize', 'APPLY', 'transition', 'created', 'authorized', 0, 2, 6, '2026-11-25 21:32:54.699095+00', '{"event_id": "evt_35", "payment_id": "pay_dismissed", "type": "authorize"}'),
	('evt_36', 'pay_dismissed', 2, 'refund', 'MANUAL_REVIEW', 'predecessor_missing', 'authorized', 'authorized', 0, 2, 7, '2026-11-25 21:32:54.699128+00', '{"event_id": "evt_36", "payment_id": "pay_dismissed", "type": "refund"}'),
	('evt_41', 'pay_sold', 1, 'authorize', 'APPLY', 'transition', 'created', 'authorized', 0, 2, 8, '2026-11-25 21:32:54.699167+00', '{"event_id": "evt_41", "payment_id": "pay_sold", "type": "authorize"}'),
	('evt_42', 'pay_sold', 2, 'capture', 'APPLY', 'transition', 'authorized', 'captured', 0, 2, 9, '2026-11-25 21:32:54.699196+00', '{"event_id": "evt_42", "payment_id": "pay_sold", "type": "capture"}'),
	('evt_43', 'pay_moved_last', 1, 'capture', 'MANUAL_REVIEW', 'predecessor_missing', 'created', 'created', 0, 2, 10, '2026-11-25 21:32:54.699232+00', '{"event_id": "evt_43", "payment_id": "pay_moved_last", "type": "capture"}'),
	('evt_37', 'pay_two_moves', 5, 'capture', 'MANUAL_REVIEW', 'capture_after_refund', 'refunded', 'refunded', 0, 3, 1, '2026-11-25 21:32:56.162821+00', '{"event_id": "evt_37", "payment_id": "pay_two_moves", "type": "capture"}'),
	('evt_38', 'pay_dismissed', 4, 'authorize', 'IGNORE', 'already_in_state', 'authorized', 'authorized', 1, 3, 1, '2026-11-25 21:32:56.164695+00', '{"event_id": "evt_38", "payment_id": "pay_dismissed", "type": "authorize"}'),
	('evt_39', 'pay_created_applied', 4, 'capture', 'IGNORE', 'already_in_state', 'captured', 'captured', 1, 3, 2, '2026-11-25 21:32:56.164781+00', '{"event_id": "evt_39", "payment_id": "pay_created_applied", "type": "capture"}'),
	('evt_40', 'pay_authorized', 5, 'authorize', 'IGNORE', 'already_in_state', 'authorized', 'authorized', 0, 4, 1, '2026-11-25 21:32:56.376803+00', '{"event_id": "evt_40", "payment_id": "pay_authorized", "type": "authorize"}'),
	('evt_50', 'pay_disputed', 1, 'authorize', 'APPLY', 'transition', 'created', 'authorized', 0, 5, 1, '2026-11-26 04:04:15.677651+00', '{"event_id": "evt_50", "payment_id": "pay_disputed", "type": "authorize"}'),
	('evt_51', 'pay_disputed', 2, 'flag', 'MANUAL_REVIEW', 'flagged', 'authorized', 'authorized', 0, 5, 2, '2026-11-26 04:04:15.679491+00', '{"event_id": "evt_51", "payment_id": "pay_disputed", "type": "flag", "note": "a dispute"}'),
	('evt_52', 'pay_disputed', 3, 'capture', 'APPLY', 'transition', 'authorized', 'captured', 0, 5, 3, '2026-11-26 04:04:15.679745+00', '{"event_id": "evt_52", "payment_id": "pay_disputed", "type": "capture"}'),
	('evt_53', 'pay_disputed', 4, 'flag', 'MANUAL_REVIEW', 'flagged', 'captured', 'captured', 0, 5, 4, '2026-11-26 04:04:15.679805+00', '{"event_id": "evt_53", "payment_id": "pay_disputed", "type": "flag", "note": "another"}'),
	('evt_54', 'pay_later', 1, 'capture', 'MANUAL_REVIEW', 'predecessor_missing', 'created', 'created', 0, 5, 7, '2026-11-26 04:04:15.680175+00', '{"event_id": "evt_54", "payment_id": "pay_later", "type": "capture"}');

INSERT INTO payproc.payments VALUES
	('$1 %s %(x)s $$ $procedure$', 'authorized', 1, '2026-11-25 21:32:53.738162+00', '2026-11-25 21:32:53.738162+00'),
	('evt  1', 'failed', 1, '2026-11-25 21:32:53.738648+00', '2026-11-25 21:32:53.738648+00'),
	('pay_"double"', 'authorized', 1, '2026-11-25 21:32:53.738095+00', '2026-11-25 21:32:53.738095+00'),
	('pay_''; DROP TABLE payproc.events; --', 'authorized', 1, '2026-11-25 21:32:53.738062+00', '2026-11-25 21:32:53.738062+00'),
	('pay_\n\.\', 'authorized', 1, '2026-11-25 21:32:53.738113+00', '2026-11-25 21:32:53.738113+00'),
	('pay_authorized', 'authorized', 5, '2026-11-25 21:32:53.734675+00', '2026-11-25 21:32:53.734675+00'),
	('pay_captured', 'failed', 7, '2026-11-25 21:32:53.736615+00', '2026-11-25 21:32:53.991479+00'),
	('pay_created_applied', 'captured', 4, '2026-11-25 21:32:54.698837+00', '2026-11-25 21:32:55.011769+00'),
	('pay_dismissed', 'authorized', 4, '2026-11-25 21:32:54.699095+00', '2026-11-25 21:32:54.699095+00'),
	('pay_failed_later', 'failed', 2, '2026-11-25 21:32:53.737065+00', '2026-11-25 21:32:53.737088+00'),
	('pay_moved_last', 'captured', 2, '2026-11-25 21:32:54.699232+00', '2026-11-25 21:32:55.728918+00'),
	('pay_refunded', 'refunded', 8, '2026-11-25 21:32:53.736901+00', '2026-11-25 21:32:53.736994+00'),
	('pay_sold', 'captured', 2, '2026-11-25 21:32:54.699167+00', '2026-11-25 21:32:54.699196+00'),
	('pay_two_moves', 'refunded', 5, '2026-11-25 21:32:54.699004+00', '2026-11-25 21:32:55.498952+00'),
	('pay_verbatim', 'authorized', 1, '2026-11-25 21:32:53.738674+00', '2026-11-25 21:32:53.738674+00'),
	('päy_😀', 'authorized', 1, '2026-11-25 21:32:53.738129+00', '2026-11-25 21:32:53.738129+00'),
	('yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy', 'authorized', 1, '2026-11-25 21:32:53.738193+00', '2026-11-25 21:32:53.738193+00'),
	('​pay​', 'failed', 1, '2026-11-25 21:32:53.738177+00', '2026-11-25 21:32:53.738177+00'),
	('😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀', 'created', 1, '2026-11-25 21:32:53.738211+00', '2026-11-25 21:32:53.738211+00'),
	('päy', 'created', 1, '2026-11-25 21:32:53.738144+00', '2026-11-25 21:32:53.738144+00'),
	('pay_created_twice', 'created', 2, '2026-11-25 21:32:53.737189+00', '2026-11-25 21:32:53.737189+00'),
	('pay_created', 'created', 1, '2026-11-25 21:32:53.737132+00', '2026-11-25 21:32:53.737132+00'),
	('pay_later', 'created', 1, '2026-11-26 04:04:15.680175+00', '2026-11-26 04:04:15.680175+00'),
	('pay_disputed', 'captured', 5, '2026-11-26 04:04:15.677651+00', '2026-11-26 04:04:15.679745+00'),
	('pay_failed', 'captured', 6, '2026-11-25 21:32:53.73704+00', '2026-11-26 04:04:15.967196+00');

INSERT INTO payproc.resolutions VALUES
	('evt_23', 'pay_captured', 6, 'apply', 'captured', 'failed', 'the goods came back
unpaid', 'Zoë O''Neil', '2026-11-25 21:32:53.991479+00'),
	('evt_25', 'pay_authorized', 4, 'dismiss', 'authorized', 'authorized', 'sent by mistake', 'ops \ 2', '2026-11-25 21:32:54.231336+00'),
	('evt_20', 'pay_refunded', 8, 'dismiss', 'refunded', 'refunded', 'it''s one refund', 'ops', '2026-11-25 21:32:54.466688+00'),
	('evt_31', 'pay_created_applied', 3, 'apply', 'authorized', 'captured', 'a sale', 'ops', '2026-11-25 21:32:55.011769+00'),
	('evt_33', 'pay_two_moves', 3, 'apply', 'created', 'captured', 'a sale', 'ops', '2026-11-25 21:32:55.243546+00'),
	('evt_34', 'pay_two_moves', 4, 'apply', 'captured', 'refunded', 'and its refund', 'ops', '2026-11-25 21:32:55.498952+00'),
	('evt_43', 'pay_moved_last', 2, 'apply', 'created', 'captured', 'a sale: 100 %, \o/', 'ops', '2026-11-25 21:32:55.728918+00'),
	('evt_36', 'pay_dismissed', 3, 'dismiss', 'authorized', 'authorized', 'nothing was captured', 'ops', '2026-11-25 21:32:55.952802+00'),
	('evt_51', 'pay_disputed', 5, 'dismiss', 'captured', 'captured', 'won', 'ops', '2026-11-26 04:04:15.840351+00');

INSERT INTO payproc.runs OVERRIDING SYSTEM VALUE VALUES
	(1, '{"it''s a \"day\" \\ {1,NULL}, 100% Überweisung.jsonl"}', '2026-11-25 21:32:53.728847+00', '2026-11-25 21:32:53.742073+00', '2026-11-25 21:32:53.742073+00', 42, 2, 18, 6, 5, 11, NULL),
	(2, '{second.jsonl,<stdin>}', '2026-11-25 21:32:54.687644+00', '2026-11-25 21:32:54.70328+00', '2026-11-25 21:32:54.70328+00', 11, 0, 4, 0, 1, 6, NULL),
	(3, '{"a
b	c.jsonl",<stdin>}', '2026-11-25 21:32:56.157457+00', '2026-11-25 21:32:56.167451+00', NULL, 3, 0, 0, 2, 0, 1, NULL),
	(5, '{<stdin>}', '2026-11-26 04:04:15.667616+00', '2026-11-26 04:04:15.691255+00', '2026-11-26 04:04:15.691255+00', 7, 0, 2, 1, 1, 3, 'version 2''s');

SELECT pg_catalog.setval('payproc.runs_run_id_seq', 5, true);

ALTER TABLE ONLY payproc.event_conflicts
    ADD CONSTRAINT conflicts_are_recorded_once PRIMARY KEY (event_id, payment_id, type);

ALTER TABLE ONLY payproc.corrections
    ADD CONSTRAINT corrections_have_one_a_position PRIMARY KEY (payment_id, "position");

ALTER TABLE ONLY payproc.events
    ADD CONSTRAINT events_are_recorded_once PRIMARY KEY (event_id);

ALTER TABLE ONLY payproc.events
    ADD CONSTRAINT histories_have_one_entry_a_position UNIQUE (payment_id, "position");

ALTER TABLE ONLY payproc.payments
    ADD CONSTRAINT payments_have_one_state PRIMARY KEY (payment_id);

ALTER TABLE ONLY payproc.resolutions
    ADD CONSTRAINT resolutions_have_one_a_position UNIQUE (payment_id, "position");

ALTER TABLE ONLY payproc.resolutions
    ADD CONSTRAINT reviews_are_resolved_once PRIMARY KEY (event_id);

ALTER TABLE ONLY payproc.runs
    ADD CONSTRAINT runs_have_one_number PRIMARY KEY (run_id);

CREATE INDEX conflicts_of_a_payment ON payproc.event_conflicts USING btree (payment_id);

CREATE INDEX events_for_review ON payproc.events USING btree (recorded_at, event_id) WHERE (outcome = 'MANUAL_REVIEW'::payproc.outcome);
