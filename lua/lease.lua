-- Take, renew or give up a lease, or only look; and look at all other leases meanwhile. Times are milliseconds.
--
-- KEYS   epoch, leases, owned
-- ARGV   epoch_ttl_ms, nonce, action, owner, incarnation, lease_ttl_ms, heartbeat_ms, known_epoch
-- REPLY  epoch, verdict, incarnation; each: finding, whose, reason
-- FEED   nothing
-- USES   look
--
-- action: take, a new incarnation above all that are there and above the one given; bring, that one into a further
-- shard; renew; leave; drop, when it was lost elsewhere; look. verdict: held, lost, gone. A lease that is not there is
-- lost in the epoch that its holder knows; in another the data was lost, and it is held again. finding: marked, and the
-- owner; or lost, and an incarnation with the reason for which its rooms are to be failed.

local action, owner, incarnation = ARGV[3], ARGV[4], ARGV[5]
local there = owner ~= '' and string.match(redis.call('HGET', KEYS[2], owner) or '', '^%d+') or ''
local verdict, looks = 'gone', true

local function hold()
  if there ~= '' and there ~= incarnation then
    condemn(owner, there, 'owner ' .. owner .. ' lost (its name was taken again)')
  end
  redis.call('HSET', KEYS[2], owner, table.concat({incarnation, ARGV[6], ARGV[7], now_ms, '0'}, ' '))
  verdict = 'held'
end

if action == 'take' then
  local last = incarnation
  for _, word in ipairs(redis.call('HGETALL', KEYS[2])) do
    local other = string.match(word, '^lost (%d+)$') or string.match(word, '^(%d+) %d+ %d+ %d+ %d+$')
    if other and other > last then last = other end
  end
  incarnation = now_us > last and now_us or string.format('%.0f', last + 1)
  hold()
elseif action == 'bring' then
  if there > incarnation then verdict, incarnation = 'lost', there else hold() end
elseif action == 'renew' then
  -- Of two that bring one name back to a server without data, the later incarnation has it, whoever comes first.
  local is_lost = there > incarnation or (there == '' and epoch == ARGV[8])
    or redis.call('HEXISTS', KEYS[2], 'lost ' .. incarnation) == 1
  if there == incarnation or not is_lost then hold() else verdict = 'lost' end
  -- However many hold leases here, a look now and then is enough.
  local last = string.match(redis.call('HGET', KEYS[2], 'looked at') or '', '^%d+$')
  looks = not last or math.abs(now_ms - last) >= 100
  if looks then redis.call('HSET', KEYS[2], 'looked at', now_ms) end
elseif there == incarnation and action ~= 'look' then
  condemn(owner, there, 'owner ' .. owner .. (action == 'leave' and ' left' or ' lost'))
end

local reply = {epoch, verdict, incarnation}
if looks then look(reply) end
for i = 1, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
return reply
