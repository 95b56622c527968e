-- Record the decisions about a batch, each in its own transaction. Nothing is decided here.
--
-- A decision is recorded only if its payment still has the version and state it was based on, and
-- its event_id is free. If the payment has moved, the event is contested: nothing is written, and
-- its place in the batch, from 1, is reported. Later events of that payment are contested as well,
-- even if their version fits, because their premise never became true. If another process used the
-- event_id or opened the payment, a unique key ends the CALL. So does a trigger that swallows a
-- row. Earlier events stay recorded.
--
-- `contested` holds places, because a database with a lossy encoding may return another event_id.
--
-- Lists are text separated by U+001F, which no id and no JSON line contains. The few pairs of type
-- and decision are sent once; in_kinds numbers them from 1.
--
-- Commits are asynchronous by SET LOCAL, because a session setting leaks through a pool. The last
-- one waits for the disk and makes all earlier ones durable. It writes a WAL message, because a
-- commit without WAL does not wait. It waits even with synchronous_commit off; a stronger setting
-- stays. After the CALL its events are durable, and so is everything visible before it.
--
-- A canceled wait for a standby ends with a WARNING. The last commit suppresses lesser messages,
-- and a NOTICE marks its place. Citus passes on nothing below it.
--
-- Polymorphic functions and operators carry their schema, because an exact match in another schema
-- would run with the caller's rights. unnest of several arrays cannot; the parser takes
-- pg_catalog's.
--
-- payments is always written before events. A holder of an event_id waits for no other lock, so
-- CALLs cannot deadlock.
--
-- The cost is the setup of statements in each transaction, so there are few. The INSERTs are plain,
-- because ON CONFLICT on payments alone costs 4 % of the server's instructions.
--
-- {event_ids} stands for the table that says whose an event_id is: event_ids on Citus, else events.
-- On Citus one more parameter comes first, a payment_id by which Citus routes the CALL.
--
-- Distributed PostgreSQL must run it: no array subscript inside INSERT or UPDATE, no function such
-- as now() inside CASE, RETURNING ... INTO or ROW_COUNT instead of FOUND, no assignment to array
-- elements, a plain loop over scalars, variables named unlike columns.
CREATE OR REPLACE PROCEDURE payproc.record_decisions(
    in_run_id bigint,
    in_sources text,
    in_lines text,
    in_event_ids text,
    in_payment_ids text,
    in_kinds text,
    in_types text,
    in_versions text,
    in_outcomes text,
    in_reasons text,
    in_befores text,
    in_afters text,
    in_payloads text,
    INOUT contested text
)
LANGUAGE plpgsql
AS $procedure$
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
    this_is_evidence boolean;
    this_has_original boolean;
    this_before payproc.state;
    this_after payproc.state;
    this_payload json;
    this_digest bytea;
    new_version integer;
    this_moment timestamptz;
    written bigint;
    contested_places text[] := '{}';
    contested_payments text[] := '{}';
BEGIN
    -- Plans made while the table was small scan it for every event. A pooled session may hold such
    -- plans.
    DISCARD PLANS;

    FOR this_place, this_source, this_line, this_event, this_payment, this_type, this_version,
        this_outcome, this_reason, this_is_evidence, this_before, this_after, this_payload
    IN
        SELECT batch.place, batch.source::integer, batch.line::bigint, batch.event, batch.payment,
               kind_types[batch.kind::integer], batch.version::integer,
               kind_outcomes[batch.kind::integer], kind_reasons[batch.kind::integer],
               kind_reasons[batch.kind::integer]
                   OPERATOR(pg_catalog.=) ANY ('{event_id_conflict,duplicate_event}'::payproc.reason[]),
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

        -- Evidence of an event_id used for something else, or of an event delivered again with
        -- other content. It changes no payment, and a repeat adds nothing. That of a contested
        -- payment is decided again, because the line that it was compared with is not on record. An
        -- expression in this IF would be set up anew in each transaction, 1 % of a fresh event.
        IF this_is_evidence THEN
            SELECT true INTO this_has_original FROM payproc.{event_ids} AS original
            WHERE original.event_id = this_event
              AND (original.payment_id = this_payment AND original.type OPERATOR(pg_catalog.=) this_type)
                  = (this_reason OPERATOR(pg_catalog.=) 'duplicate_event')
              AND this_payment <> ALL (contested_payments);
            IF this_has_original AND this_reason OPERATOR(pg_catalog.=) 'event_id_conflict' THEN
                INSERT INTO payproc.event_conflicts (event_id, payment_id, type, run_id, source, line, payload)
                VALUES (this_event, this_payment, this_type, in_run_id, this_source, this_line, this_payload)
                ON CONFLICT DO NOTHING;
            ELSIF this_has_original THEN
                this_digest := sha256(pg_catalog.convert_to(this_payload::text, 'UTF8'));
                INSERT INTO payproc.redeliveries (event_id, digest, run_id, source, line, payload)
                VALUES (this_event, this_digest, in_run_id, this_source, this_line, this_payload)
                ON CONFLICT DO NOTHING;
            END IF;
            COMMIT;
            CONTINUE;
        END IF;

        IF this_version = 0 THEN
            INSERT INTO payproc.payments (payment_id, state, version) VALUES (this_payment, this_after, 1);
            GET DIAGNOSTICS new_version = ROW_COUNT;
        ELSE
            this_moment := now();
            UPDATE payproc.payments
            SET state = this_after, version = this_version + 1,
                state_since = CASE WHEN this_after OPERATOR(pg_catalog.=) this_before THEN payments.state_since
                                   ELSE this_moment END
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
    SET LOCAL client_min_messages = notice;
    RAISE NOTICE 'payproc: commit';
    SET LOCAL client_min_messages = warning;
END
$procedure$;
