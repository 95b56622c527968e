# Adyen's webhooks as input for payproc; README.md beside this file explains the mapping.
#
#   set -o pipefail
#   jq -cf sample_events/psp/adyen.jq adyen.jsonl | payproc ingest -
#
# --arg mode test           take the webhooks of test mode, and only those
# --arg capture immediate   each authorization is its capture, too

def recipe: "adyen.jq";
def options: {mode: ["live", "test"], capture: ["separate", "immediate"]};
def foreign: "! not a webhook of Adyen";

# The items of a webhook, each with the webhook's mode.
def page: .live as $live | .notificationItems | arrays | map(if type == "object" then {live: $live} + . else . end);
def time: null;
def is_test: .live == "false" or .live == false;

# Codes that report no step.
def no_step: {
  ACH_NOTIFICATION_OF_CHANGE: 1, AUTHENTICATION: 1, AUTHORISATION_ADJUSTMENT: 1, AUTORESCUE: 1,
  AUTORESCUE_NEXT_ATTEMPT: 1, CANCEL_AUTORESCUE: 1, MANUAL_REVIEW_ACCEPT: 1, OFFER_CLOSED: 1, ORDER_CLOSED: 1,
  ORDER_OPENED: 1, PENDING: 1, RECURRING_CONTRACT: 1, REPORT_AVAILABLE: 1
};

def step($psp):
  {
    "AUTHORISATION true": "authorize", "AUTHORISATION false": "fail", "CAPTURE true": "capture",
    "REFUND true": "refund", "CANCELLATION true": "fail", "TECHNICAL_CANCEL true": "fail"
  }[$psp] // if $psp == "CANCEL_OR_REFUND true" then
    .additionalData | objects | {cancel: "fail", refund: "refund"}["\(.["modification.action"])"]
  else null end // "flag";

def reference: if type == "string" and . != "" then . else null end;

def value: .amount | if type == "object" and (.value | type) == "number" then .value else null end;

# Each flag has an id of its own, so that a later recipe can still map the event under its own.
def flag_suffix: .success
  | if . == true or . == "true" then "" elif . == false or . == "false" then ":false" else ":unknown" end + ":flag";

# The events that an item becomes, or the kind that is left out. "! " gets it a line of its own.
def events:
  .live as $live
  | .NotificationRequestItem // .
  | if type != "object" or (.eventCode | type) != "string" then foreign
    else
      "\(.eventCode) \(.success)" as $psp
      | (.pspReference | reference) as $own
      | (if .eventCode == "AUTHORISATION" then $own else .originalReference | reference end) as $payment
      | step($psp) as $known
      | (if $payment then $known else "flag" end) as $step
      | {
          event_id: (if $own then "\($own):\(.eventCode)" + if $step == "flag" then flag_suffix else "" end
            else null end),
          payment_id: ($payment // $own), type: $step, psp: $psp, eventDate, live: $live,
          merchantAccountCode, merchantReference, amount
        } as $event
      | if no_step[.eventCode] then
          if .eventCode == "AUTHORISATION_ADJUSTMENT" then [$event, $psp] else $psp end
        elif $payment == null and $known == "flag" and ((value // 0) == 0) then
          "! \($psp), which names no payment and no amount"
        else
          $event + if $step == "flag" and .eventCode != "AUTHORISATION" then {reason} else {} end,
          if $step == "authorize" and $ARGS.named.capture == "immediate" then
            $event + {event_id: ($event.event_id | if . then . + ":capture" else . end), type: "capture"}
          else empty end
        end
    end;

# ---- Parts -----------------------------------------------------------------------------------------
# Adyen does not say whether a REFUND is all of the payment. It is the refund once the sum of all
# refunds is the captured amount, or the authorized one if no capture has been seen, and else a flag.
# Without the AUTHORISATION in sight, captures may be missing, too.
#
# jq copies the state for each message if it has more levels, or if an alternative such as the right
# side of // is still open. So the keys are long, and there is no // below.

def put($key; $value): setpath([$key]; $value);
def put_once($key; $value): if .[$key] == null then setpath([$key]; $value) else . end;
def add_to($key; $value): setpath([$key]; .[$key] + $value);

def seen($event): $event.event_id | "\($event.psp) \(if type == "string" then split(":")[0] else . end)";
def currency($event): $event.amount | "\($event.payment_id) \(if type == "object" then .currency else . end)";

def is_whole($sum):
  .["authorized " + $sum] as $authorized
  | .["captured " + $sum] as $captured
  | (if $captured == null then $authorized else $captured end) as $all
  | $authorized != null and $all > 0 and .["refunded " + $sum] >= $all;

# The state learns from an event the amounts of its payment, and what a refund has been taken for.
def remember($event):
  $event.psp as $psp
  | currency($event) as $sum
  | ($event | value) as $value
  | if $psp == "AUTHORISATION false" then
      if .["authorized " + $sum] == null then put_once("failed " + $event.payment_id; true) else . end
    elif $psp == "AUTHORISATION true" then put_once("authorized " + $sum; $value + 0)
    elif $value == null then .
    elif $psp == "AUTHORISATION_ADJUSTMENT true" then put("authorized " + $sum; $value)
    elif $psp == "CAPTURE true" or $psp == "REFUND true"
      or $psp == "CAPTURE_FAILED true" or $psp == "REFUND_FAILED true" or $psp == "REFUNDED_REVERSED true" then
      seen($event) as $seen
      | if .[$seen] then .
        elif $psp == "CAPTURE true" then put($seen; true) | add_to("captured " + $sum; $value)
        elif $psp == "REFUND true" then
          add_to("refunded " + $sum; $value)
          | put($seen; if $event.type == "refund" and is_whole($sum) then "refund" else "flag" end)
        elif $psp == "CAPTURE_FAILED true" then put($seen; true) | add_to("captured " + $sum; -$value)
        else put($seen; true) | add_to("refunded " + $sum; -$value) end
    else . end;

# A redelivery is judged as before. The ids of an attempt both refused and authorized differ, so that
# a person sees it.
def judge($event):
  $event.psp as $psp
  | if $psp == "REFUND true" and $event.type == "refund" and .[seen($event)] != "refund" then
      $event + {type: "flag", event_id: ($event.event_id | if . then . + ":flag" else . end)}
    elif $psp == "AUTHORISATION true" and $event.type == "authorize" and .["failed \($event.payment_id)"] then
      $event + {event_id: ($event.event_id + ":true")}
    elif $psp == "AUTHORISATION false" and $event.type == "fail" and (.["failed \($event.payment_id)"] | not) then
      $event + {type: "flag", event_id: ($event.event_id + ":false:flag")}
    else $event end;

# ---- The same in every recipe: options, messages, envelopes, counts and the report -----------------

def drain: (try (input | null) catch .) as $problem
  | if $problem == "break" or $problem == "No more inputs" then . else drain end;

# jq 1.6 would run this program anew on the rest of the input, so read that first.
def stop($code): "\(recipe): \(.)\n" as $line | drain | $line | halt_error($code);

def unknown_options:
  $ARGS.named | to_entries[] | .value as $value | select(any(options[.key] // [] | .[]; . == $value) | not)
  | "unknown --arg \(.key) \(.value), expected "
    + ([options | to_entries[] | "--arg \(.key) \(.value | join("|"))"] | join(", "));

# After a damaged message jq would go on in the middle of it.
def messages:
  ., (try inputs catch (
    "stopped at a message that is not JSON (\(.)); mend it and run all again. All printed events are right" | stop(5)));

# EventBridge; CloudEvents; Kafka, with or without Connect; SQS; SNS; a log of requests.
def envelope:
  if (.["detail-type"] | type) == "string" then .detail
  elif has("specversion") then .data
  elif has("topic") or has("schema") then .payload // .value
  else
    (.isBase64Encoded == true) as $encoded
    | .Records // .Messages // .Message // .Sns // .Body // .body
    | if $encoded and type == "string" then (try @base64d catch "") else . end
  end;

# A message may be JSON in a string.
def items:
  def oldest_first:
    if length < 2 then .
    else
      [.[0], .[-1] | objects | [items][0] | objects | time | values] as [$first, $last]
      | if $last != null and $first > $last then reverse else . end
    end;
  if type == "array" then oldest_first[] | items
  elif type == "string" then (try [fromjson] catch [""])[0] | if type == "array" or type == "object" then items else . end
  elif type != "object" then .
  else [page, envelope][0] as $inner | if $inner == null then . else $inner | items end end;

# An object is an event to print, a string a kind that is left out. An array holds an event that is
# only remembered, because payproc has it on record, or because of the kind beside it.
def results:
  ($ARGS.named.mode == "test") as $test
  | try (
    if type != "object" then foreign
    elif .event_id and .payment_id and .psp then [.]
    elif is_test != $test then
      if $test then "! live events, because of --arg mode test"
      else "! test-mode events; --arg mode test takes them, and only them" end
    else events end
  ) catch "! messages that the recipe cannot read: \(.)";

def add_one($path): setpath($path; getpath($path) + 1);

# Kinds come from outside: printable ASCII only.
def shown: .[:120] | explode | map(if 31 < . and . < 127 then . else 63 end) | implode;

def report:
  [.left_out // {} | to_entries | sort_by(-.value, .key)[] | .key |= shown] as $kinds
  | ($kinds | map(select(.key | startswith("! ") | not))) as $known
  | "\(recipe): \(.printed // 0) events printed, \($kinds | map(.value) | add // 0) messages left out"
    + if $known == [] then "" else ": " + ($known[:20] | map("\(.value) \(.key)") | join(", ")) end
    + if $known[20:] == [] then "" else ", \($known[20:] | length) more kinds" end,
    ($kinds[] | select(.key | startswith("! ")) | "\(recipe): LEFT OUT \(.value): \(.key[2:])");

first(unknown_options | stop(2)),
foreach ((messages | items | results), null) as $result ({};
  # The state has one level for payments and one for kinds, because jq copies what is deeper.
  if $result == null then .
  elif $result | type == "string" then add_one(["left_out", $result])
  elif $result | type == "array" then
    remember($result[0]) | if $result[1] then add_one(["left_out", $result[1]]) else . end
  else remember($result) | add_one(["printed"]) end;
  if $result == null then [report] | join("\n") + "\n" | halt_error(0)
  elif $result | type == "object" then judge($result) | with_entries(select(.value != null))
  else empty end)
