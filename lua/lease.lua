-- Take, renew or release a lease, and sweep all leases; or only sweep. Times are milliseconds.
--
-- KEYS     epoch, leases, owned, feed
-- ARGV     epoch_ttl_ms, nonce, action, owner, incarnation, lease_ttl_ms, heartbeat_ms, known_epoch
-- REPLY    epoch, feed_id, room, status, state, incarnation; each: finding, subject, reason
-- FEED     nothing
-- INCLUDE  ensure_epoch, lease_sweep, feed_end
--
-- action: take, with a new incarnation above all existing ones and the one given; extend, that one to another shard;
-- renew; leave; drop, when it was lost in another shard; sweep. state: held, lost, or none after the last three. A
-- missing lease is lost in the epoch that its holder knows; in another epoch the data was lost, and it is held again.
-- finding: suspected, with the owner; or lost, with an incarnation and the reason with which to fail its rooms.
-- feed_id, room, status: the last entry of the feed and the first room that it names; empty if there is none.

local action, owner, incarnation = ARGV[3], ARGV[4], ARGV[5]
local epoch = ensure_epoch(KEYS[1], ARGV[2], ARGV[1])
read_clock()
local current = owner ~= '' and string.match(redis.call('HGET', KEYS[2], owner) or '', '^%d+') or ''
local state, sweeps = 'none', true

local function hold()
  if current ~= '' and current ~= incarnation then
    mark_lost(owner, current, 'owner ' .. owner .. ' lost (its name was taken again)')
  end
  redis.call('HSET', KEYS[2], owner, table.concat({incarnation, ARGV[6], ARGV[7], now_ms, '0'}, ' '))
  state = 'held'
end

if action == 'take' then
  local last = incarnation
  for _, word in ipairs(redis.call('HGETALL', KEYS[2])) do
    local other = string.match(word, '^lost (%d+)$') or string.match(word, '^(%d+) %d+ %d+ %d+ %d+$')
    if other and other > last then last = other end
  end
  incarnation = now_us > last and now_us or string.format('%.0f', last + 1)
  hold()
elseif action == 'extend' then
  if current > incarnation then state, incarnation = 'lost', current else hold() end
elseif action == 'renew' then
  -- If two processes renew one name after a data loss, the later incarnation holds it, whichever renews first.
  local is_lost = current > incarnation or (current == '' and epoch == ARGV[8])
    or redis.call('HEXISTS', KEYS[2], 'lost ' .. incarnation) == 1
  if current == incarnation or not is_lost then hold() else state = 'lost' end
  -- One sweep per 100 ms is enough for any number of leases.
  local last = string.match(redis.call('HGET', KEYS[2], 'last sweep') or '', '^%d+$')
  sweeps = not last or math.abs(now_ms - last) >= 100
  if sweeps then redis.call('HSET', KEYS[2], 'last sweep', now_ms) end
elseif current == incarnation and action ~= 'sweep' then
  mark_lost(owner, current, 'owner ' .. owner .. (action == 'leave' and ' left' or ' lost'))
end

local feed_id, room, status = feed_end(KEYS[4])
local reply = {epoch, feed_id, room, status, state, incarnation}
if sweeps then sweep(reply, epoch) end
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
return reply
