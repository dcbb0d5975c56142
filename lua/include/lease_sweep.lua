-- Leases that have expired: the first sweep marks one as suspected, a later one as lost. Times are milliseconds.
--
-- INCLUDE  clock
--
-- KEYS are epoch, leases, owned. A lease is a field of leases, by its owner:
-- "<incarnation> <ttl_ms> <heartbeat_ms> <last_heartbeat_ms> <suspected_ms, or 0>", where ttl_ms is the lease's, not a
-- room's. A field "lost <incarnation>" has the reason with which to fail the rooms of that incarnation, until none is
-- left.

local function has_rooms(incarnation)
  return redis.call('ZCOUNT', KEYS[3], incarnation, incarnation) > 0
end

local function mark_lost(owner, incarnation, reason)
  redis.call('HDEL', KEYS[2], owner)
  if has_rooms(incarnation) then redis.call('HSETNX', KEYS[2], 'lost ' .. incarnation, reason) end
end

-- An expired lease is lost only if it was suspected long ago: since then, a live owner had time to renew it, even if
-- the server was unreachable before. In an epoch younger than the lease's ttl_ms none is lost.
local function check_expiry(owner, record, epoch)
  local lease = {string.match(record, '^(%d+) (%d+) (%d+) (%d+) (%d+)$')}
  local incarnation, ttl_ms, heartbeat_ms = lease[1], lease[2], lease[3]
  local last_heartbeat_ms, suspected_ms = lease[4], lease[5]
  if not incarnation then return end
  if now_ms - last_heartbeat_ms < 0 then
    -- The clock has gone back: renew the lease, or it could not expire until the clock has caught up.
    lease[4], lease[5] = now_ms, '0'
    redis.call('HSET', KEYS[2], owner, table.concat(lease, ' '))
    return
  end
  if now_ms - last_heartbeat_ms - ttl_ms <= 0 then return end
  local epoch_age_us = math.abs(now_us - (string.match(epoch, '^%d+') or now_us))
  if suspected_ms == '0' or now_ms - suspected_ms < 0 then
    lease[5] = now_ms
    redis.call('HSET', KEYS[2], owner, table.concat(lease, ' '))
  elseif now_ms - suspected_ms >= math.max(2 * heartbeat_ms, 600) and epoch_age_us >= ttl_ms * 1000 then
    mark_lost(owner, incarnation, 'owner ' .. owner .. ' lost')
  end
end

-- Check all leases, and append to the reply which are suspected, and which lost incarnations still have rooms.
local function sweep(reply, epoch)
  local words = redis.call('HGETALL', KEYS[2])
  for i = 1, #words, 2 do check_expiry(words[i], words[i + 1], epoch) end
  words = redis.call('HGETALL', KEYS[2])
  for i = 1, #words, 2 do
    local name, value, n = words[i], words[i + 1], #reply
    local lost = string.match(name, '^lost (%d+)$')
    if lost and not has_rooms(lost) then
      redis.call('HDEL', KEYS[2], name)
    elseif lost then
      reply[n + 1], reply[n + 2], reply[n + 3] = 'lost', lost, value
    elseif string.find(value, '^%d+ %d+ %d+ %d+ [1-9]%d*$') then
      reply[n + 1], reply[n + 2], reply[n + 3] = 'suspected', name, ''
    end
  end
end
