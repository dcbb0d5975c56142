-- Leases that have expired: the first sweep marks one as suspected, a later one as lost. Times are milliseconds.
--
-- INCLUDE  lease_due
--
-- A sweep checks the leases that are due, so it costs what has changed, and not what there is.

local MAX_DUE, MAX_GAP_MS = '200', 60000  -- leases of one sweep: the next continues
local gap_at_ms, gap_ms = 0, 0

-- A gap: for gap_ms before gap_at_ms nobody swept, or the clock was set forward or back. One is kept: a later one
-- replaces it, unless the kept one, less half of its age, is still longer.
local function note_gap(last_gap, silent_ms)
  local at_ms, ms = string.match(last_gap or '', '^(%d+) (%d+)$')
  gap_at_ms, gap_ms = (at_ms or 0) + 0, (ms or 0) + 0
  local age_ms = now_ms - gap_at_ms
  if silent_ms < 500 or (age_ms >= 0 and silent_ms < gap_ms - age_ms / 2) then return end
  gap_at_ms, gap_ms = now_ms, silent_ms
  redis.call('HSET', KEYS[2], 'last gap', now_ms .. ' ' .. math.min(silent_ms, MAX_GAP_MS))
end

-- How long an expired lease is suspected before it is lost, so that a live owner can renew it. After an outage of the
-- server its heartbeats come every heartbeat_ms; where the clock was set forward, none failed: every 0.3 of ttl_ms.
local function suspicion_ms(ttl_ms, heartbeat_ms, suspected_ms)
  local after_gap_ms, least_ms = suspected_ms - gap_at_ms, math.max(2 * heartbeat_ms, 600)
  if 2 * gap_ms < ttl_ms - 0 or after_gap_ms < 0 or after_gap_ms > ttl_ms - 0 then return least_ms end
  return math.max(least_ms, math.ceil(0.35 * ttl_ms))
end

-- In an epoch younger than the lease's ttl_ms none is lost: the data was lost after its last heartbeat, and its owner
-- has first to find that out.
local function check_expiry(owner, record, epoch)
  local lease = {string.match(record, '^(%d+) (%d+) (%d+) (%d+) (%d+)$')}
  local incarnation, ttl_ms, heartbeat_ms = lease[1], lease[2], lease[3]
  local last_heartbeat_ms, suspected_ms = lease[4], lease[5]
  if not incarnation then return redis.call('ZREM', KEYS[5], owner) end
  local due_ms = last_heartbeat_ms + ttl_ms
  if now_ms - last_heartbeat_ms < 0 then
    -- The clock has gone back: renew the lease, or it could not expire until the clock has caught up.
    lease[4], lease[5], due_ms = now_ms, '0', now_ms + ttl_ms
    redis.call('HSET', KEYS[2], owner, table.concat(lease, ' '))
  elseif now_ms - due_ms > 0 then
    local epoch_age_us = math.abs(now_us - (string.match(epoch, '^%d+') or now_us))
    if suspected_ms == '0' or now_ms - suspected_ms < 0 then
      lease[5], due_ms = now_ms, now_ms + suspicion_ms(ttl_ms, heartbeat_ms, now_ms)
      redis.call('HSET', KEYS[2], owner, table.concat(lease, ' '))
    else
      local lost_at_ms = suspected_ms + suspicion_ms(ttl_ms, heartbeat_ms, suspected_ms)
      if now_ms - lost_at_ms >= 0 and epoch_age_us >= ttl_ms * 1000 then
        return mark_lost(owner, incarnation, 'owner ' .. owner .. ' lost')
      end
      due_ms = math.max(lost_at_ms, now_ms + math.max(0, ttl_ms - math.floor(epoch_age_us / 1000)))
    end
  end
  set_due(owner, due_ms)
end

-- Checks what is due; all leases if the clock has gone back, or if the due times are unknown or gone (evicted).
local function sweep(epoch, last_sweep_ms, last_gap)
  note_gap(last_gap, math.abs(now_ms - (last_sweep_ms or now_ms)))
  redis.call('HSET', KEYS[2], 'last sweep', now_ms)
  if not last_sweep_ms or now_ms - last_sweep_ms < 0 or redis.call('ZCARD', KEYS[5]) == 0 then
    local words = redis.call('HGETALL', KEYS[2])
    for i = 1, #words, 2 do
      local lost = string.match(words[i], '^lost (%d+)$')
      if lost then
        if not redis.call('ZSCORE', KEYS[5], 'gone ' .. lost) then mark_lost(nil, lost, words[i + 1]) end
      elseif string.find(words[i + 1], '^%d+ %d+ %d+ %d+ %d+$') then
        check_expiry(words[i], words[i + 1], epoch)
      end
    end
    return
  end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now_ms, 'LIMIT', '0', MAX_DUE)) do
    local lost, gone = string.match(name, '^lost (%d+)$'), string.match(name, '^gone (%d+)$')
    local record = redis.call('HGET', KEYS[2], lost and name or gone and 'lost ' .. gone or name) or ''
    if lost then
      mark_lost(nil, lost, record)
    elseif gone then
      erase(gone)
      redis.call('ZREM', KEYS[5], name)
    else
      check_expiry(name, record, epoch)
    end
  end
end
