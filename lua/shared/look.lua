-- Leases as a script finds them, and what becomes of those that have lapsed. This goes in front of every script that
-- USES look. Times are milliseconds.
--
-- KEYS are epoch, leases, owned. ARGV begin with epoch_ttl_ms, nonce. A lease is a field of leases, by its owner:
-- "<incarnation> <ttl_ms> <heartbeat_ms> <beaten_ms> <marked_ms, or 0>". A field "lost <incarnation>" has the reason
-- for which the rooms of that one are to be failed, until none is left.

local time = redis.call('TIME')
local micros = string.sub('00000' .. time[2], -6)
local now_ms, now_us = time[1] .. string.sub(micros, 1, 3), time[1] .. micros
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  epoch = now_us .. '-' .. ARGV[2]
  redis.call('HSET', KEYS[1], 'epoch', epoch)
end

local function has_rooms(incarnation)
  return redis.call('ZCOUNT', KEYS[3], incarnation, incarnation) > 0
end

local function condemn(owner, incarnation, reason)
  redis.call('HDEL', KEYS[2], owner)
  if has_rooms(incarnation) then redis.call('HSETNX', KEYS[2], 'lost ' .. incarnation, reason) end
end

-- Mark what has lapsed, and condemn it if that was done long ago: whoever lives has had the time to say so, also when
-- the server was away. In an epoch younger than the lease nobody is condemned.
local function judge(owner, record)
  local lease = {string.match(record, '^(%d+) (%d+) (%d+) (%d+) (%d+)$')}
  local incarnation, ttl_ms, heartbeat_ms, beaten_ms, marked_ms = lease[1], lease[2], lease[3], lease[4], lease[5]
  if not incarnation then return end
  if now_ms - beaten_ms < 0 then
    -- The clock has gone back: its time begins anew, or nobody would be found dead until the clock is there again.
    lease[4], lease[5] = now_ms, '0'
    redis.call('HSET', KEYS[2], owner, table.concat(lease, ' '))
    return
  end
  if now_ms - beaten_ms - ttl_ms <= 0 then return end
  local age_us = math.abs(now_us - (string.match(epoch, '^%d+') or now_us))
  if marked_ms == '0' or now_ms - marked_ms < 0 then
    lease[5] = now_ms
    redis.call('HSET', KEYS[2], owner, table.concat(lease, ' '))
  elseif now_ms - marked_ms >= math.max(2 * heartbeat_ms, 600) and age_us >= ttl_ms * 1000 then
    condemn(owner, incarnation, 'owner ' .. owner .. ' lost')
  end
end

-- Look at all leases. What is found goes behind the reply.
local function look(reply)
  local words = redis.call('HGETALL', KEYS[2])
  for i = 1, #words, 2 do judge(words[i], words[i + 1]) end
  words = redis.call('HGETALL', KEYS[2])
  for i = 1, #words, 2 do
    local name, value, n = words[i], words[i + 1], #reply
    local lost = string.match(name, '^lost (%d+)$')
    if lost and not has_rooms(lost) then
      redis.call('HDEL', KEYS[2], name)
    elseif lost then
      reply[n + 1], reply[n + 2], reply[n + 3] = 'lost', lost, value
    elseif string.find(value, '^%d+ %d+ %d+ %d+ [1-9]%d*$') then
      reply[n + 1], reply[n + 2], reply[n + 3] = 'marked', name, ''
    end
  end
end
