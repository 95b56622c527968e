-- Records what was decided about a batch of events, each in a transaction of its own. It decides nothing.
--
-- A decision is recorded only if its payment still has the version and state that it was based on, and only if nothing
-- is on record under its event_id: compare and set. If its payment has moved, it is contested: nothing of it is written,
-- and its place in the batch, counted from 1, is reported in `contested`. So is that of every later event of the same
-- payment in this batch, even if the version happens to fit, because it was decided on a state that never came to be.
-- If somebody has recorded its event_id, or opened its payment, in the meantime, a unique key ends the CALL with an
-- error. Events before it stay recorded; the caller looks again. So does a trigger or a rule that lets no row through.
--
-- Places, not event_ids: text may come back from a database of another encoding unlike what was sent to it.
--
-- The lists arrive as text, separated by U+001F, which neither an id nor a line of JSON can hold. A batch has few
-- different pairs of type and decision, so these are sent once, and each event names its pair by number, from 1: in_kinds.
--
-- The commits are asynchronous, each for itself (SET LOCAL; a setting for the session would leak through a connection
-- pool). The last one waits for the disk, and so makes everything committed before it durable. It writes a message to
-- the WAL, because a commit that writes nothing does not wait; a row could be missing, hidden by a policy, or UNLOGGED.
-- It waits for the local disk even if the role or database has synchronous_commit off; a stronger setting stays. So:
-- when this CALL has returned, its events are durable, and so is everything that was visible before it began. (For
-- Citus, schema.py leaves the asynchronous commits out: there each commit waits.)
--
-- A wait for a standby that an administrator cancels ends with a WARNING, not an error. To let the client tell it from
-- other messages, in any language, the last commit sends nothing below a warning, and the INFO before it marks the place.
--
-- Names: an exact match in another schema wins over the catalog's polymorphic function or operator, and would run with
-- the caller's rights. So those are written with their schema. (unnest of several arrays cannot be; the parser takes
-- pg_catalog's.)
--
-- The UPDATE or INSERT of payments comes before the INSERT into events, always: whoever holds an event_id waits for
-- nothing more, so two calls cannot wait for each other.
--
-- What it costs is mostly setting up expressions and statements anew for each transaction, so there are few of them, and
-- the text is cast in the one query that the loop reads. The INSERTs are plain, because a conflict is rare: ON CONFLICT
-- on payments alone costs 4 % of the server's instructions.
--
-- Kept to what distributed PostgreSQL should run, too: no array subscript inside INSERT or UPDATE, RETURNING ... INTO or
-- ROW_COUNT instead of FOUND, no assignment to array elements, a plain loop over scalars, variables named unlike columns.
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
    this_before payproc.state;
    this_after payproc.state;
    this_payload json;
    new_version integer;
    written bigint;
    contested_places text[] := '{}';
    contested_payments text[] := '{}';
BEGIN
    -- A session keeps the plans it has made. One made while statistics know of a page or two reads the whole table for
    -- each event, however big it gets, until statistics are renewed. (Behind a pool, others have left plans in this
    -- session; theirs are made anew, too.)
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

        -- Evidence of an event_id used for something else. True or not, it changes no payment; a repeat is a no-op.
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
$procedure$;
