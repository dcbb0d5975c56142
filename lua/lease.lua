-- Take, renew or release a lease, or end one that was lost; and check the leases that are due. Times are milliseconds.
--
-- KEYS     epoch, leases, owned, feed, due
-- ARGV     epoch_ttl_ms, nonce, action, owner, incarnation, lease_ttl_ms, heartbeat_ms, known_epoch, reason, process
-- REPLY    epoch, feed_id, room, status, state, incarnation; each: finding, subject, reason
-- FEED     nothing
-- INCLUDE  ensure_epoch, is_above, numbers, lease_due, lease_sweep, feed_end
--
-- action: take, with a new incarnation above all existing ones and the one given; extend, that one to another shard;
-- renew; leave; drop, when it was lost in another shard; reaped, when the rooms of a lost one have failed; sweep. Only
-- renew and sweep check others. state: held, lost, or none. A missing lease is lost in the epoch that its holder knows;
-- in another epoch the data was lost, and it is held again.
-- finding: lost, with an incarnation and the reason with which to fail its rooms; next, with the milliseconds until
-- another sweep has something to check.
-- feed_id, room, status: the last entry of the feed and the first room that it names; empty if there is none.

local action, owner, incarnation = ARGV[3], ARGV[4], ARGV[5]
-- Before any write: a key of another type (made by hand) refuses the call.
redis.call('ZSCORE', KEYS[5], owner)
if action == 'leave' or action == 'drop' or action == 'reaped' then redis.call('ZCARD', KEYS[3]) end
local found = redis.call('HMGET', KEYS[2], owner, 'last sweep', 'last incarnation', 'lost ' .. incarnation, 'last gap')
-- What only keeps or ends leases passes at maxmemory: nothing, first, as in fail_room.lua.
if action ~= 'take' and action ~= 'extend' then redis.call('HDEL', KEYS[1], '') end
local epoch = ensure_epoch(KEYS[1], ARGV[2], ARGV[1])
read_clock()
local current = string.match(found[1] or '', '^%d+') or ''
local last_sweep_ms, last = string.match(found[2] or '', '^%d+$'), string.match(found[3] or '', '^%d+$') or ''
local lost_reason, state = found[4], 'none'
if not is_number(last) then last = '' end  -- made by hand

local function hold()
  if current ~= incarnation then
    if current ~= '' then mark_lost(owner, current, 'owner ' .. owner .. ' lost (its name was taken again)') end
    if is_above(incarnation, last) then redis.call('HSET', KEYS[2], 'last incarnation', incarnation) end
    if ARGV[10] ~= '' then redis.call('HSET', KEYS[2], 'by ' .. incarnation, ARGV[10]) end
  end
  redis.call('HSET', KEYS[2], owner, table.concat({incarnation, ARGV[6], ARGV[7], now_ms, '0'}, ' '))
  -- 1: ZADD has added it. If the lease was there, the key due was lost: without last_sweep_ms, the sweep below checks
  -- all leases.
  if set_due(owner, now_ms + ARGV[6]) == 1 and current == incarnation then last_sweep_ms = nil end
  state = 'held'
end

if action == 'take' then
  if is_number(incarnation) and is_above(incarnation, last) then last = incarnation end
  if is_number(current) and is_above(current, last) then last = current end
  incarnation = is_above(now_us, last) and now_us or string.format('%.0f', last + 1)
  hold()
elseif action == 'extend' then
  if is_above(current, incarnation) then state, incarnation = 'lost', current else hold() end
elseif action == 'renew' then
  -- If two processes renew one name after a data loss, the later incarnation holds it, whichever renews first.
  local is_lost = is_above(current, incarnation) or (current == '' and epoch == ARGV[8]) or lost_reason
  if current == incarnation or not is_lost then
    hold()
  else
    state = 'lost'
    if current ~= '' and lost_reason then redis.call('HSETNX', KEYS[2], 'alive ' .. incarnation, now_ms) end
  end
elseif action == 'reaped' then
  forget(incarnation, lost_reason)
elseif action == 'leave' and current == incarnation then
  if has_rooms(incarnation) then
    mark_lost(owner, incarnation, 'owner ' .. owner .. ' left')
  else
    redis.call('HDEL', KEYS[2], owner)
    redis.call('ZREM', KEYS[5], owner)
    erase(incarnation)
  end
elseif action == 'leave' and lost_reason and redis.call('ZSCORE', KEYS[5], 'lost ' .. incarnation) then
  mark_lost(nil, incarnation, lost_reason)  -- the reply to a former try was lost, and its rooms are still to be failed
elseif action == 'drop' and (current == incarnation or lost_reason or has_rooms(incarnation)) then
  mark_lost(current == incarnation and owner, incarnation, lost_reason or ARGV[9])
end

-- One sweep per 100 ms is enough for any number of leases.
local is_due = not last_sweep_ms or math.abs(now_ms - last_sweep_ms) >= 100
local sweeps = action == 'sweep' or (action == 'renew' and is_due)
if sweeps then
  sweep(epoch, last_sweep_ms, found[5])
  report_next()
end
if sweeps or state ~= 'held' or current ~= incarnation then
  for _, i in ipairs({1, 2, 3, 5}) do redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
end
local feed_id, room, status = feed_end(KEYS[4])
local reply = {epoch, feed_id, room, status, state, incarnation}
for i = 1, #findings do reply[#reply + 1] = findings[i] end
return reply
