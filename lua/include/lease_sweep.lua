-- Leases that have expired: the first sweep marks one as suspected, a later one as lost. Times are milliseconds.
--
-- INCLUDE  lease_due
--
-- A sweep looks at the leases that are due, so it costs what has changed, and not what there is.

local MAX_DUE, MAX_AFTER_GAP = '200', '1000'  -- of one sweep; the next continues

-- An expired lease is lost only if it was suspected long ago: since then, a live owner had time to renew it, even if
-- the server was unreachable before. In an epoch younger than the lease's ttl_ms none is lost. gap_ms: for how long
-- nobody has looked. If that is long, the clock may have been set forward under the living, whose next heartbeat may be
-- 0.3 of ttl_ms away: they get the time for it.
local function check_expiry(owner, record, epoch, gap_ms)
  local lease = {string.match(record, '^(%d+) (%d+) (%d+) (%d+) (%d+)$')}
  local incarnation, ttl_ms, heartbeat_ms = lease[1], lease[2], lease[3]
  local last_heartbeat_ms, suspected_ms = lease[4], lease[5]
  if not incarnation then return redis.call('ZREM', KEYS[5], owner) end
  local apart_ms = math.max(2 * heartbeat_ms, 600)
  local due_ms = last_heartbeat_ms + ttl_ms
  if now_ms - last_heartbeat_ms < 0 then
    -- The clock has gone back: renew the lease, or it could not expire until the clock has caught up.
    lease[4], lease[5], due_ms = now_ms, '0', now_ms + ttl_ms
    redis.call('HSET', KEYS[2], owner, table.concat(lease, ' '))
  elseif now_ms - due_ms > 0 then
    local epoch_age_us = math.abs(now_us - (string.match(epoch, '^%d+') or now_us))
    if suspected_ms == '0' or now_ms - suspected_ms < 0 then
      if 2 * gap_ms >= ttl_ms - 0 then apart_ms = math.max(apart_ms, math.ceil(0.35 * ttl_ms)) end
      lease[5], due_ms = now_ms, now_ms + apart_ms
      redis.call('HSET', KEYS[2], owner, table.concat(lease, ' '))
    elseif now_ms - suspected_ms >= apart_ms and epoch_age_us >= ttl_ms * 1000 then
      return mark_lost(owner, incarnation, 'owner ' .. owner .. ' lost')
    else
      due_ms = math.max(suspected_ms + apart_ms, now_ms + math.max(0, ttl_ms - math.floor(epoch_age_us / 1000)))
    end
    find('suspected', owner, '')
  end
  set_due(owner, due_ms)
end

-- Look at what is due. All leases are checked if the clock has gone back since the last sweep, or their due times are
-- unknown. is_by_hand: no process is known to hold a lease, so nobody is waited for.
local function sweep(epoch, last_sweep_ms, is_by_hand)
  local gap_ms = is_by_hand and 0 or now_ms - (last_sweep_ms or 0)
  redis.call('HSET', KEYS[2], 'last sweep', now_ms)
  if not last_sweep_ms or now_ms - last_sweep_ms < 0 then
    local words = redis.call('HGETALL', KEYS[2])
    for i = 1, #words, 2 do
      local lost = string.match(words[i], '^lost (%d+)$')
      if lost then
        if not redis.call('ZSCORE', KEYS[5], 'gone ' .. lost) then mark_lost(nil, lost, words[i + 1]) end
      elseif string.find(words[i + 1], '^%d+ %d+ %d+ %d+ %d+$') then
        check_expiry(words[i], words[i + 1], epoch, gap_ms)
      end
    end
    return
  end
  local most = gap_ms > 500 and MAX_AFTER_GAP or MAX_DUE
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now_ms, 'LIMIT', '0', most)) do
    local lost, gone = string.match(name, '^lost (%d+)$'), string.match(name, '^gone (%d+)$')
    local record = redis.call('HGET', KEYS[2], lost and name or gone and 'lost ' .. gone or name) or ''
    if lost then
      mark_lost(nil, lost, record)
    elseif gone then
      erase(gone)
      redis.call('ZREM', KEYS[5], name)
    else
      check_expiry(name, record, epoch, gap_ms)
    end
  end
end
