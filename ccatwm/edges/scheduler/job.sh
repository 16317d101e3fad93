#!/bin/sh
# The job: runs one attempt on a compute node and leaves a record of how it went.
# Called as `job.sh /base/.submissions/{token} [array index]`. Plain sh with coreutils and findutils, the same file for
# every job: every value is read from files as data. Records: docs/reference/job-records.md.
# Exit status: the payload's own; 76 an input is missing, 77 the attempt belongs to somebody else, 78 unusable call, or a
# program that this script needs is missing here.
set -u

# What PATH the batch system gave comes first; it may have given none.
usual_path=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin
PATH=${PATH:+$PATH:}$usual_path
export PATH
# All that is called below and that no shell has built in.
programs='cp cut date env find grep head mkdir mv rm sha256sum sleep stat sync tr uname xargs'

INPUT_MISSING=76
NOT_OURS=77
UNUSABLE=78
pid=
killer=
looking= # whether `pid` is no payload, but what looks at its output
signal=
caught=
kill_after=15

now() { date -u +%Y-%m-%dT%H:%M:%S.%6NZ; }

fail() {
    printf 'job.sh: %s\n' "$2" >&2
    exit "$1"
}

quoted_or_null() { if [ -n "$1" ]; then printf '"%s"' "$1"; else printf null; fi; }

# --- signals: passed on to the payload, which alone decides when it ends, until its time is up ---

# Whether the payload is still the copy of this shell that it begins as: it then has this script's command line.
has_not_begun() {
    own_argv=
    payload_argv=
    { IFS= read -r own_argv <"/proc/$$/cmdline"; } 2>/dev/null
    { IFS= read -r payload_argv <"/proc/$pid/cmdline"; } 2>/dev/null
    [ -n "$own_argv" ] && [ "$payload_argv" = "$own_argv" ]
}

# A copy of a shell takes a signal that the shell traps and forgets it, until it has put its traps away; so the payload is
# let begin first, for a second at most.
forward() {
    [ -n "$pid" ] || return 0
    tries=50
    while [ "$tries" -gt 0 ] && has_not_begun; do
        sleep 0.02
        tries=$((tries - 1))
    done
    # A payload passes a signal on to what it started; what lists and hashes does not.
    if [ -n "$looking" ]; then list_family; else family=$pid; fi
    for member in $family; do kill -s "$1" "$member" 2>/dev/null; done
}

start_killer() {
    [ -n "$pid" ] && [ -z "$killer" ] || return 0
    (
        nap=
        stopped=
        # It may come before the number of `sleep` is known: nothing of this is left running.
        trap 'stopped=1; [ -z "$nap" ] || kill "$nap" 2>/dev/null' USR2
        sleep "$kill_after" &
        nap=$!
        [ -z "$stopped" ] || kill "$nap" 2>/dev/null
        wait "$nap"
        [ -n "$stopped" ] || kill -s KILL "$pid" 2>/dev/null
    ) </dev/null >/dev/null 2>&1 &
    killer=$!
}

on_end_signal() {
    caught=$1
    signal=$1
    forward "$1"
    [ "$1" != TERM ] || start_killer
}

# Reads /proc/PID/status (proc(5)): sets name, parent and mask, the signals that the process catches.
read_status() {
    name=
    parent=
    mask=
    while IFS=':	 ' read -r key value _; do
        case $key in
            Name) name=$value ;;
            PPid) parent=$value ;;
            SigCgt) mask=$value ;;
        esac
    done 2>/dev/null <"/proc/$1/status"
    [ -n "$mask" ]
}

# The payload and all its descendants, as words. Tasks that srun started are children of Slurm's own supervisor of a step
# on this node: its command line is `slurmstepd: [JOB.STEP]` (measured with 22.05).
list_family() {
    family=" $pid "
    [ -z "${SLURM_JOB_ID-}" ] || for folder in /proc/[0-9]*; do
        read -r key value _ <"$folder/cmdline" || :
        case $key$value in
            "slurmstepd:[$SLURM_JOB_ID.batch]"* | "slurmstepd:[$SLURM_JOB_ID.extern]"*) ;;
            "slurmstepd:[$SLURM_JOB_ID."*) family="$family${folder#/proc/} " ;;
        esac
    done 2>/dev/null
    while :; do
        before=$family
        for folder in /proc/[0-9]*; do
            member=${folder#/proc/}
            case $family in *" $member "*) continue ;; esac
            read_status "$member" || continue
            case $family in *" $parent "*) family="$family$member " ;; esac
        done
        [ "$family" != "$before" ] || break
    done
}

# The warning goes to those who catch it: it would kill all others, and a signal that is ignored when a shell script
# begins cannot be trapped by it. The container runtime catches every signal to pass it on.
warn_payload() {
    [ -n "$pid" ] || return 0
    list_family
    for member in $family; do
        read_status "$member" || continue
        case $name in
            srun | slurmstepd | starter* | apptainer* | Apptainer* | singularity* | Singularity* | appinit | sinit) continue ;;
        esac
        # USR1 is signal 10: bit 9 of the mask.
        case $mask in *[2367abef]??) kill -s USR1 "$member" 2>/dev/null ;; esac
    done
}

on_warning() {
    caught=USR1
    warn_payload
}

trap 'on_end_signal TERM' TERM
trap 'on_end_signal INT' INT
trap 'on_end_signal HUP' HUP
trap on_warning USR1

# Sets `status` to that of the process $1 once it is gone. A trap ends `wait` early with a status above 128; waiting
# again tells: the status of a process that had ended already is then unknown (127), and the first answer was its own.
wait_until_gone() {
    status=
    while :; do
        caught=
        previous=$status
        wait "$1"
        status=$?
        if [ "$status" -eq 127 ] && [ -n "$previous" ]; then
            status=$previous
            return
        fi
        if [ -z "$caught" ] || [ "$status" -le 128 ]; then return; fi
    done
}

# By a signal that this script does not trap: it ends a killer that has not come to its own trap yet, where TERM would be
# lost on the copy of this shell, and its whole time would be waited for.
stop_killer() {
    [ -n "$killer" ] || return 0
    kill -s USR2 "$killer" 2>/dev/null
    wait "$killer" 2>/dev/null
    killer=
}

# --- memory: the kernel counts the processes that it ended for want of it, by control group ---

# Sets counter to the file of this control group, or nothing: memory.oom_control in cgroup v1 (Linux 4.13), memory.events
# in v2. own_group says whether only this job is in it.
find_oom_counter() {
    counter=
    own_group=
    while IFS=: read -r _ controllers group; do
        case ,$controllers, in
            *,memory,*) file=/sys/fs/cgroup/memory$group/memory.oom_control ;;
            ,,) file=/sys/fs/cgroup$group/memory.events ;;
            *) continue ;;
        esac
        [ -r "$file" ] || continue
        counter=$file
        case $group/ in */job_"${SLURM_JOB_ID:-none}"/*) own_group=yes ;; esac
        return
    done 2>/dev/null </proc/self/cgroup
}

# Sets kills; empty where it is not known.
read_oom_kills() {
    kills=
    [ -n "$counter" ] || return 0
    while read -r key value _; do
        case $key in oom_kill) case $value in '' | *[!0-9]*) ;; *) kills=$value ;; esac ;; esac
    done 2>/dev/null <"$counter"
}

# Whether the payload, which ended with $1, lost a process that way. In a control group that others share only the end
# by KILL shows that it was one of ours.
ran_out_of_memory() {
    [ -n "$kills_before" ] || return 1
    [ -n "$own_group" ] || [ "$1" -eq 137 ] || return 1
    read_oom_kills
    [ -n "$kills" ] && [ "$kills" -gt "$kills_before" ]
}

# --- records ---

write_record() { # $1 name, $2 text: whole or not at all
    { printf '%s\n' "$2" >"job/.$1.$restart" && mv -f "job/.$1.$restart" "job/$1"; } 2>/dev/null
}

# Blocks for exit.json are taken now, and written over in place: it can be written even when the disk is full.
reserve_exit_record() {
    { printf '%1023s\n' '' >"job/.exit.json.$restart" && sync "job/.exit.json.$restart"; } 2>/dev/null
}

# $1 exit code, $2 reason, $3 status of hashing or null
write_exit_record() {
    text=$(printf '{"format":1,"token":"%s","exit_code":%d,"signal":%s,"reason":"%s","started_at":%s,"ended_at":"%s","hash_exit_code":%s,"host":"%s"}' \
        "$token" "$1" "$(quoted_or_null "$signal")" "$2" "$(quoted_or_null "$started_at")" "$ended_at" "$3" "$host")
    printf '%s' "$text" 1<>"job/.exit.json.$restart" &&
        { sync "job/.exit.json.$restart" 2>/dev/null || :; } &&
        mv -f "job/.exit.json.$restart" job/exit.json
}

is_full() {
    { head -c 65536 /dev/zero >"job/.space.$restart" && sync "job/.space.$restart"; } 2>/dev/null
    full=$?
    rm -f "job/.space.$restart"
    [ "$full" -ne 0 ]
}

# A disk without room for any record can still move a folder: that is the sign.
tell_if_full() {
    if is_full; then mv -f "$base/$attempt/scratch/cache" "$base/$attempt/job/full" 2>/dev/null; fi
}

finish() { # $1 exit code, $2 reason, $3 status of hashing
    stop_killer
    if ! write_exit_record "$1" "$2" "$3"; then
        printf 'job.sh: exit.json could not be written\n' >&2
        tell_if_full
    fi
    exit "$1"
}

# --- 1. which attempt ---

[ $# -ge 1 ] || fail $UNUSABLE 'usage: job.sh /base/.submissions/TOKEN [ARRAY_INDEX]'
case $1 in /*/.submissions/*) ;; *) fail $UNUSABLE "not a submission folder: $1" ;; esac
submission=${1%/}
token=${submission##*/}
base=${submission%/.submissions/*}
case $token in '' | *[!A-Za-z0-9_-]*) fail $UNUSABLE "not a token: $token" ;; esac
index=${2:-${SLURM_ARRAY_TASK_ID:-0}}
case $index in '' | *[!0-9]*) fail $UNUSABLE "not an array index: $index" ;; esac
restart=${SLURM_RESTART_COUNT:-0}
case $restart in '' | *[!0-9]*) restart=0 ;; esac

attempt=
line_number=0
while IFS= read -r line; do
    if [ "$line_number" -eq "$index" ]; then
        attempt=$line
        break
    fi
    line_number=$((line_number + 1))
done <"$submission/tasks" || fail $UNUSABLE "cannot read $submission/tasks"
[ -n "$attempt" ] || fail $UNUSABLE "$submission/tasks has no line for index $index"
cd "$base/$attempt" || fail $UNUSABLE "no attempt folder $base/$attempt"

# --- 2. whether it can be run here. Only what the shell has built in is used so far. ---

note_not_ours() {
    printf '%s host=%s pid=%s restart=%s: %s\n' "$(now 2>/dev/null)" "$host" "$$" "$restart" "$1" >>job/refused 2>/dev/null
    fail $NOT_OURS "$1"
}

# Sets own to the folder of this start.
find_own_folder() {
    own=$base/$attempt
    [ "$restart" -eq 0 ] || own=$own.r$restart
}

# The claim is a file here: whoever makes it first owns the attempt, be it a file or a folder. A start after the first
# needs a folder of its own for the record; without `mkdir` only the log of the batch system tells.
end_without_programs() {
    text="programs that every job needs are missing on this host: $missing (PATH is $PATH)"
    printf 'job.sh: %s\n' "$text" >&2
    host=
    { IFS= read -r host </proc/sys/kernel/hostname; } 2>/dev/null
    case $host in *[!A-Za-z0-9._-]*) host= ;; esac
    ! has_ended_before || note_not_ours 'this attempt has ended already'
    find_own_folder
    [ "$restart" -eq 0 ] || mkdir "$own" "$own/job" "$own/logs" 2>/dev/null || exit $UNUSABLE
    set -C
    if ! { printf '' >"job/claims/$restart"; } 2>/dev/null; then
        [ ! -e "job/claims/$restart" ] || note_not_ours 'this attempt is claimed by somebody else'
        fail $UNUSABLE "cannot claim $base/$attempt"
    fi
    printf 'job.sh: %s\n' "$text" >>"$own/logs/stderr.log"
    ended_at=$(now 2>/dev/null)
    printf '{"format":1,"token":"%s","exit_code":%d,"signal":null,"reason":"programs-missing","missing":"%s","started_at":null,"ended_at":%s,"hash_exit_code":null,"host":"%s"}' \
        "$token" "$UNUSABLE" "$missing" "$(quoted_or_null "$ended_at")" "$host" >"$own/job/exit.json"
    exit $UNUSABLE
}

# Whether this attempt has ended already. An earlier start that was ended by a signal from outside is no end: it was
# started again for that.
has_ended_before() {
    earlier=0
    while [ "$earlier" -le "$restart" ]; do
        folder=$base/$attempt
        [ "$earlier" -eq 0 ] || folder=$folder.r$earlier
        if [ -e "$folder/job/exit.json" ]; then
            line=
            { IFS= read -r line <"$folder/job/exit.json"; } 2>/dev/null
            case $line in *'"reason":"signalled"'*) [ "$earlier" -lt "$restart" ] || return 0 ;; *) return 0 ;; esac
        fi
        earlier=$((earlier + 1))
    done
    return 1
}

missing=
for program in $programs; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
missing=${missing# }
[ -z "$missing" ] || end_without_programs

host=$(uname -n | tr -cd 'A-Za-z0-9._-')
boot_id=
{ IFS= read -r boot_id </proc/sys/kernel/random/boot_id; } 2>/dev/null

# --- 3. whose attempt: whoever makes the folder owns it. A claim made by a pass has no write permission. ---

# $1 with every $2 replaced by $3. No pattern: what is quoted in an expansion stands for itself.
replaced() {
    rest=$1
    done=
    while :; do
        case $rest in *"$2"*) ;; *) break ;; esac
        done=$done${rest%%"$2"*}$3
        rest=${rest#*"$2"}
    done
    printf '%s\n' "$done$rest"
}

copy_replaced() { # $1 from, $2 to, $3 what, $4 by what
    while IFS= read -r line || [ -n "$line" ]; do
        replaced "$line" "$3" "$4"
    done <"$1" >"$2"
}

# A batch system may start a job again while what it started before still writes: each start has a folder of its own,
# `attempt-{n}.r{restart}`. The highest claim tells which was started last.
move_to_own_folder() {
    find_own_folder
    mkdir "$own" && mkdir "$own/config" "$own/output" "$own/logs" "$own/job" "$own/job/claims" "$own/scratch" \
        "$own/scratch/home" "$own/scratch/tmp" "$own/scratch/cache" || return 1
    ! grep -qx 'final=1' job/limits || (cd "$own/output" && mkdir science qa plots statistics logs) || return 1
    copy_replaced job/argv "$own/job/argv" "$base/$attempt/" "$own/" || return 1
    copy_replaced config/manifest.json "$own/config/manifest.json" "$base/$attempt/" "$own/" || return 1
    cp job/inputs.list job/limits "$own/job/" && cd "$own"
}

! has_ended_before || note_not_ours 'this attempt has ended already'
superseding=$(find job/claims -mindepth 1 -maxdepth 1 ! -perm -200 2>/dev/null)
[ -z "$superseding" ] || note_not_ours 'this attempt was superseded'
if ! mkdir "job/claims/$restart" 2>/dev/null; then
    [ ! -e "job/claims/$restart" ] || note_not_ours 'this attempt is claimed by somebody else'
    tell_if_full
    fail $UNUSABLE "cannot claim $base/$attempt"
fi
started_at=$(now)
ended_at=$started_at
if [ "$restart" -ne 0 ] && ! move_to_own_folder; then
    tell_if_full
    fail $UNUSABLE "cannot make the folder of restart $restart"
fi
reserve_exit_record || printf 'job.sh: no space could be reserved for exit.json\n' >&2

if [ -r job/limits ]; then
    while IFS='=' read -r key value; do
        case $key in kill_after_seconds) case $value in '' | *[!0-9.]*) ;; *) kill_after=$value ;; esac ;; esac
    done <job/limits
fi

# --- 4. inputs: sizes and paths as they were when the job was made ---

refuse_input() {
    if is_full; then # what could not be written looks like what is not there
        ended_at=$(now)
        finish $INPUT_MISSING no-space null
    fi
    printf 'job.sh: %s\n' "$1" >>logs/stderr.log
    ended_at=$(now)
    finish $INPUT_MISSING input-missing null
}

check_inputs() { # prints the first line of inputs.list that does not hold
    (cd "$base" && cut -f 2- | tr '\n' '\0' | xargs -0 -r stat -L --printf '%s\t%n\n' --) \
        <job/inputs.list >"job/.inputs.$restart" 2>/dev/null
    while IFS= read -r wanted <&3; do
        IFS= read -r present <&4 || present=
        if [ "$wanted" != "$present" ]; then
            printf '%s' "$wanted"
            return 1
        fi
    done 3<job/inputs.list 4<"job/.inputs.$restart"
}

if [ -e job/inputs.list ]; then
    wrong=$(check_inputs) || refuse_input "an input is gone or has another size (size, path): $wrong"
    rm -f "job/.inputs.$restart"
fi

# --- 5. the command, one argument per line ---

set --
complete=
if [ -r job/argv ]; then
    while IFS= read -r line; do
        if [ "$line" = '#end-of-argv' ]; then
            complete=yes
            break
        fi
        set -- "$@" "$line"
    done <job/argv
fi
[ -n "$complete" ] && [ $# -gt 0 ] || refuse_input 'job/argv is gone or was cut'

# --- 6. run it ---

write_record started.json "$(printf '{"format":1,"token":"%s","host":"%s","pid":%d,"boot_id":"%s","restart":%d,"started_at":"%s"}' \
    "$token" "$host" "$$" "$boot_id" "$restart" "$started_at")"

# A shell starts background programs with INT ignored; `env --default-signal` (coreutils 8.31) undoes that.
if env --default-signal=INT true 2>/dev/null; then
    reset='env --default-signal=INT,QUIT'
else
    reset=
fi
find_oom_counter
read_oom_kills
kills_before=$kills
if [ -n "$signal" ]; then
    ended_at=$(now)
    finish 143 signalled null
fi
# shellcheck disable=SC2086
(
    trap - TERM INT HUP USR1
    cd scratch && exec $reset /bin/sh -c 'exec "$@"' payload "$@"
) </dev/null >>logs/stdout.log 2>>logs/stderr.log &
pid=$!
if [ -n "$signal" ]; then on_end_signal "$signal"; fi
wait_until_gone "$pid"
code=$status
pid=
stop_killer
ended_at=$(now)
write_record ended.json "$(printf '{"format":1,"exit_code":%d,"signal":%s,"ended_at":"%s"}' \
    "$code" "$(quoted_or_null "$signal")" "$ended_at")"
[ -z "$signal" ] || finish "$code" signalled null
if [ "$code" -ne 0 ] && ran_out_of_memory "$code"; then finish "$code" out-of-memory null; fi

# A program that failed on a disk that is full now: the next attempt may find room.
if [ "$code" -ne 0 ] && is_full; then finish "$code" no-space null; fi

# --- 7. what it wrote: kind, size, time of change, path and where links lead; then checksums of the files ---

looking=yes
(cd output && exec find . -mindepth 1 -printf '%y %s %T@\0%P\0%l\0') \
    </dev/null >"job/.outputs.list.$restart" 2>>logs/stderr.log &
pid=$!
wait_until_gone "$pid"
list_code=$status
pid=
[ -z "$signal" ] || finish "$code" signalled null
# Without a list it is collected by what is there then.
if [ "$list_code" -ne 0 ] || ! mv -f "job/.outputs.list.$restart" job/outputs.list; then rm -f "job/.outputs.list.$restart"; fi

(cd output && exec find . -type f -exec sha256sum -z -- {} +) \
    </dev/null >"job/.outputs.sha256.$restart" 2>>logs/stderr.log &
pid=$!
wait_until_gone "$pid"
hash_code=$status
pid=
[ -n "$signal" ] || mv -f "job/.outputs.sha256.$restart" job/outputs.sha256 || hash_code=1
if [ -n "$signal" ]; then finish "$code" signalled "$hash_code"; fi
if [ "$hash_code" -ne 0 ] && is_full; then finish "$code" no-space "$hash_code"; fi
finish "$code" payload "$hash_code"
