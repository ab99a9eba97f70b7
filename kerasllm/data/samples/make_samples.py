"""Write the sample reviews: sentences put together, by a seed, from the phrases in this file.

    python kerasllm/data/samples/make_samples.py [FOLDER]

Every phrase was written for this project. A review is one or two *clauses* about an aspect of a
restaurant, film, phone or hotel ("the soup was rich"), joined by a *pattern*. Some patterns turn a
clause around ("nobody can tell me that the soup was rich"; "the soup was rich, but the fish was
bland"), and so does a negation ("was far from rich"): not the words but their order settles the
label. A model that only counts words is right in about five of six reviews.
"""

import csv
import random
import re
import sys
from pathlib import Path

ROWS = {"train": 1600, "test": 400}  # half of each negative, half positive

# An aspect has five lines: subject and verb; good adjectives; bad adjectives; what else is good of
# it; what else is bad.
ENGLISH = {
    "restaurant": {
        "openers": [
            "Lunch for two on a Tuesday.",
            "We had booked a table for four.",
            "Came here after the theatre.",
            "First visit since the move.",
            "Dinner with my parents.",
            "We sat by the window.",
            "Ordered the set menu.",
            "Takeaway on a rainy evening.",
        ],
        "good": [
            "We will be back.",
            "I would eat here every week.",
            "The plates went back empty.",
            "Book early, it fills up.",
            "My new favourite.",
        ],
        "bad": [
            "Next time we cook at home.",
            "I would not go back.",
            "We left hungry.",
            "Save your money.",
            "Once and never again.",
        ],
        "aspects": """
            the soup was
                hot, fragrant, well seasoned, rich
                lukewarm, watery, oversalted, greasy
                warmed us right through; tasted as if it had simmered all day
                tasted of nothing but salt; arrived with a skin on top
            the noodles were
                springy, fresh, silky
                soggy, overcooked, gluey
                had just the right bite; soaked up the sauce beautifully
                stuck together in one lump; fell apart on the fork
            the steak was
                tender, juicy, well rested
                tough, dry, chewy
                came exactly as I had ordered it; almost melted on the tongue
                had the texture of a shoe sole; was grey all the way through
            the fish was
                fresh, flaky, delicate
                rubbery, bland, overdone
                smelled of the sea and of lemon; was grilled to the minute
                smelled as if it had waited since Monday; was full of bones
            the dumplings were
                plump, crisp, delicious
                doughy, cold, tasteless
                disappeared within a minute; burst with broth
                were frozen in the middle; leaked all over the plate
            the dessert was
                light, creamy, heavenly
                stale, sickly, stodgy
                made us order a second one; was worth the trip alone
                came straight from the freezer; went back after one spoonful
            our waiter was
                friendly, attentive, patient, charming
                rude, slow, careless, grumpy
                knew the menu by heart; brought more bread without being asked
                forgot half of our order; rolled his eyes when we asked for water
            the kitchen was
                quick, careful, inventive
                slow, sloppy, chaotic
                had our plates out in ten minutes; happily left out the nuts for my son
                kept us waiting for over an hour; mixed up two of our dishes
            the prices were
                fair, reasonable, modest
                steep, outrageous, cheeky
                left room for a second round; matched what was on the plate
                would suit a palace; did not match what was on the plate
            the portions were
                generous, filling, ample
                tiny, stingy, laughable
                fed us for two days; would satisfy a lumberjack
                would not fill a child; sent us to the chip shop afterwards
            the dining room was
                cosy, spotless, quiet, inviting
                noisy, cramped, stuffy, grubby
                invited us to stay all evening; had flowers on every table
                smelled of old frying oil; made any conversation impossible
            the coffee was
                strong, aromatic, smooth
                bitter, weak, sour
                rounded off the meal nicely; beat any espresso bar in town
                tasted of dishwater; had gone cold on the counter
        """,
    },
    "film": {
        "openers": [
            "Watched it on a long flight.",
            "Saw it with a full house.",
            "Two hours and ten minutes.",
            "I knew nothing about the book.",
            "Streamed it on Sunday night.",
            "The director's third feature.",
            "We picked it at random.",
            "I have seen all the earlier ones.",
        ],
        "good": [
            "See it on a big screen.",
            "I would watch it again tomorrow.",
            "The best evening in months.",
            "I left with a smile.",
            "Tell your friends.",
        ],
        "bad": [
            "I want my two hours back.",
            "I walked out before the credits.",
            "Give it a miss.",
            "I fell asleep twice.",
            "Wait until it is free.",
        ],
        "aspects": """
            the plot is
                clever, gripping, original
                predictable, confusing, thin, silly
                keeps you guessing until the last minute; ties every thread together
                falls apart after half an hour; has holes you could drive a bus through
            the lead actress is
                magnetic, convincing, wonderful
                wooden, miscast, stiff
                carries every scene she is in; says more with a glance than others with a speech
                reads her lines like a shopping list; looks bored from start to finish
            the dialogue is
                witty, sharp, natural
                clumsy, stilted, flat
                sounds like people you know; had the whole row laughing
                sounds as if a machine wrote it; explains everything three times
            the ending is
                moving, satisfying, brave
                rushed, lame, absurd
                stayed with me for days; pays off everything before it
                comes out of nowhere; ruins what came before it
            the soundtrack is
                beautiful, haunting, subtle
                loud, cheesy, intrusive
                gives you goosebumps; fits every mood of the story
                drowns out half of the words; tells you what to feel at every turn
            the pacing is
                brisk, assured, well judged
                sluggish, uneven, exhausting
                never lets your mind wander; gives each scene room to breathe
                tests anyone's patience; drags badly in the middle
            the camera work is
                stunning, elegant, inventive
                shaky, ugly, lazy
                turns every street into a painting; finds poetry in plain rooms
                made me seasick; hides all that is worth seeing
            the jokes are
                hilarious, fresh, smart
                stale, crude, lame
                land nearly every time; had me in tears
                were old twenty years ago; met with silence in our cinema
            the villain is
                chilling, complex, memorable
                cartoonish, dull, forgettable
                steals the whole show; has reasons you almost understand
                has no reason for anything he does; scares nobody over six
            the special effects are
                breathtaking, seamless, imaginative
                cheap, dated, messy
                made the children gasp; serve the story instead of smothering it
                look like an old video game; bury what little story there is
            the second half is
                thrilling, tense, touching
                tedious, pointless, muddled
                flies by in no time; pulls the rug out from under you
                repeats the first; forgets what the film was about
            the supporting cast is
                superb, lively, believable
                weak, bland, lost
                makes each small part count; clearly had fun together
                goes through the motions; never gets anything to do
        """,
    },
    "phone": {
        "openers": [
            "Bought it for my mother.",
            "Three weeks of daily use.",
            "It replaced a five year old model.",
            "I use it for work.",
            "The blue one, middle size.",
            "Ordered online, delivered on Friday.",
            "Second phone from this brand.",
            "I mostly read and take photos.",
        ],
        "good": [
            "Worth every cent.",
            "I would buy it again.",
            "My sister has ordered one too.",
            "I'm keeping it.",
            "A clear upgrade.",
        ],
        "bad": [
            "It goes back tomorrow.",
            "I have gone back to my old one.",
            "Buy something else.",
            "I have asked for a refund.",
            "A waste of money.",
        ],
        "aspects": """
            the battery is
                impressive, dependable, long-lived
                weak, unreliable, feeble
                lasts two full days; still shows half its charge at bedtime
                is flat by lunchtime; drains even when I don't touch it
            the screen is
                bright, sharp, smooth
                dim, blurry, grainy
                stays readable in full sun; shows colours as they are
                flickers in the evening; cracked in the first week
            the camera is
                excellent, quick, reliable
                poor, slow, disappointing
                takes clear pictures even at night; catches my dog in mid-jump
                turns every face orange; needs ages to focus
            the speaker is
                clear, loud, balanced
                tinny, muffled, quiet
                fills the whole kitchen with music; makes every voice easy to follow
                rattles at half volume; crackles whenever there is bass
            the fingerprint reader is
                fast, accurate, handy
                fussy, slow, useless
                unlocks at the first touch; works even with wet hands
                fails every other time; does not know my thumb any more
            the software is
                clean, fluid, intuitive
                buggy, bloated, confusing
                has not frozen once; explains itself
                is full of adverts; restarts in the middle of a call
            the body is
                slim, sturdy, elegant
                slippery, flimsy, clunky
                sits well in the hand; survived a fall down the stairs
                creaks when you press it; bends in a trouser pocket
            the charger is
                quick, compact, solid
                slow, hot, cheap
                fills it up in forty minutes; works with my laptop as well
                died after ten days; gets too hot to touch
            the call quality is
                crisp, clear, stable
                patchy, poor, hollow
                made my father sound as if he were next door; holds up even in the lift
                makes everyone sound under water; drops out every few minutes
            the buttons are
                firm, precise, well placed
                loose, stiff, badly placed
                click nicely; are easy to find in the dark
                came off within a month; get stuck all the time
            customer support is
                helpful, polite, prompt
                useless, rude, slow
                answered within the hour; sent a new cable at once
                never wrote back; blamed me for the fault
            the price is
                fair, attractive, sensible
                absurd, steep, inflated
                is hard to beat; leaves something over for a case
                doubled within a year; is that of a much better phone
        """,
    },
    "hotel": {
        "openers": [
            "Two nights in March.",
            "A business trip, single room.",
            "We stayed with two small children.",
            "Third floor, facing the yard.",
            "We arrived after midnight.",
            "A weekend by the sea.",
            "Booked at the last minute.",
            "Our anniversary trip.",
        ],
        "good": [
            "We have booked again for spring.",
            "I did not want to leave.",
            "The best night's sleep in weeks.",
            "Stay here if you can.",
            "Ten out of ten.",
        ],
        "bad": [
            "We checked out a day early.",
            "Look elsewhere.",
            "I would rather sleep in the car.",
            "I asked for my money back.",
            "Avoid it.",
        ],
        "aspects": """
            the room was
                spacious, spotless, bright, quiet
                cramped, dirty, gloomy, musty
                looked even better than in the photos; had all that we needed
                looked nothing like the photos; smelled of smoke
            the bed was
                comfortable, firm, huge
                lumpy, saggy, squeaky
                made us oversleep twice; felt like a cloud
                gave me a sore back; had crumbs in it when we came
            the shower was
                hot, powerful, sparkling
                mouldy, tepid, freezing
                had hot water at any hour; was bigger than our kitchen
                flooded the bathroom floor; gave a trickle at best
            the breakfast was
                fresh, varied, plentiful
                meagre, stale, boring
                had warm rolls and ripe fruit; kept us going until the evening
                ran out at half past eight; was toast and nothing else
            the receptionist was
                welcoming, helpful, cheerful
                rude, indifferent, unhelpful
                gave us a better room for free; drew us a map of the old town
                could not find our booking; kept us waiting while she chatted
            the view was
                spectacular, lovely, unforgettable
                dismal, depressing, ugly
                reached all the way to the hills; was worth getting up early for
                was of a brick wall; took in three dustbins and a car park
            the pool was
                warm, clean, inviting
                crowded, icy, filthy
                kept the children happy for hours; was ours alone in the morning
                was closed the whole week; turned my hair green
            the location was
                central, convenient, peaceful
                remote, noisy, inconvenient
                let us walk everywhere; was two steps from the beach
                meant an hour by bus each day; was right above a night club
            the towels were
                soft, fluffy, clean
                thin, scratchy, stained
                were changed every morning; smelled of lavender
                were never changed; had somebody's lipstick on them
            the walls were
                thick, freshly painted, soundproof
                thin, damp, stained
                kept out every sound; had beautiful old prints on them
                let us hear the neighbours snore; had mould in the corners
            the wifi was
                fast, reliable, stable
                patchy, slow, hopeless
                carried a video call without a hitch; reached as far as the garden
                dropped every ten minutes; cost more than the room
            the cleaning staff were
                thorough, discreet, kind
                careless, noisy, unfriendly
                found my earring under the bed; left a small gift for our daughter
                skipped our room twice; knocked at seven in the morning
        """,
    },
}

PRONOUNS = {
    "our waiter": "he",
    "the villain": "he",
    "the lead actress": "she",
    "the receptionist": "she",
}

# What is said with an adjective of the label's own side, and with one of the other side.
ENGLISH_PLAIN = ["{} {}", "{} really {}", "{} quite {}", "{} so {}"]
ENGLISH_NEGATED = [
    "{}n't {} at all",
    "{}n't {}",
    "{} far from {}",
    "{} anything but {}",
    "{} hardly {}",
    "{} by no means {}",
]

# Patterns. {a} and {b} agree with the label, {c} and {d} say the opposite, each of another aspect;
# {e} says the opposite about the aspect of {a}, and {p} is {a} with a pronoun.
ENGLISH_PATTERNS = {
    "plain": [
        "{a}.",
        "{a}, and {b}.",
        "{a}; {b}.",
        "{a}. {b}.",
        "to be honest, {a}.",
        "my impression: {a}, and {b}.",
        "{a}. on top of that, {b}.",
        "what struck me first: {a}.",
    ],
    "contrast": [
        "{c}, but {a}.",
        "{c}, yet {a}.",
        "although {c}, {a}.",
        "{a}, even though {c}.",
        "granted, {c}; still, {a}, and that is what counts.",
        "{c} and {d}, but what decides it for me: {a}.",
        "for all that {c}, {a}, and {b}.",
        "it may be that {c}. more important to me: {a}.",
    ],
    "reported": [
        "I had been told that {e}, but {p}.",
        "I read that {c}; I have to disagree.",
        "don't believe anyone who says that {c}.",
        "nobody can tell me that {c}.",
        "other reviews say that {e}. not in my experience: {p}.",
        "it simply isn't true that {c}.",
        "whoever claims that {c} has not been paying attention.",
    ],
    "only good": [
        "some had warned me that {e}. needlessly: {p}.",
        "some complain that {c}. no trace of that.",
        "one small complaint: {c}. otherwise {a}, and {b}.",
        "luckily, {a}.",
    ],
    "only bad": [
        "I wish I could say that {c}.",
        "if only it were true that {c}.",
        "one bright spot: {c}. otherwise {a}, and {b}.",
        "unfortunately, {a}.",
    ],
}

# The same in Chinese, where an adjective needs no verb.
CHINESE = {
    "restaurant": {
        "openers": [
            "周末和家人去的。",
            "中午一个人来吃的。",
            "朋友生日聚餐订了这家。",
            "点的外卖。",
            "团购的双人套餐。",
            "下班顺路进去的。",
            "第一次来这家店。",
            "带爸妈来的。",
        ],
        "good": [
            "下次还来。",
            "值得专门跑一趟。",
            "已经推荐给同事了。",
            "吃得很满足。",
            "会常来的。",
        ],
        "bad": ["不会再来了。", "白花钱。", "大家避雷吧。", "吃完一肚子气。", "以后绕着走。"],
        "aspects": """
            汤
                鲜, 浓, 香
                淡, 咸, 油
                喝得人浑身暖和; 一看就是熬了很久的
                喝着像白开水; 端上来已经凉了
            面条
                筋道, 爽滑, 入味
                烂, 坨, 硬
                软硬刚刚好; 一口下去满嘴香
                全粘成一团; 像是早就煮好放着的
            牛排
                嫩, 入味, 香
                老, 柴, 腥
                火候拿捏得正好; 切开还带着汁水
                咬都咬不动; 煎得跟鞋底一样
            鱼
                新鲜, 嫩, 鲜美
                腥, 老, 咸
                端上来还冒着热气; 一点刺都没有
                一股冰箱味; 里面居然没熟
            饺子
                饱满, 好吃, 鲜
                难吃, 油腻, 咸
                皮薄馅大; 几分钟就被我们抢光了
                皮厚得像馒头; 一煮全破了
            甜品
                精致, 细腻, 香甜
                腻, 粗糙, 难吃
                让人忍不住又点了一份; 甜得恰到好处
                像是从冷冻柜里直接拿出来的; 吃一口就放下了
            服务员
                热情, 周到, 耐心
                冷漠, 敷衍, 傲慢
                主动给老人换了软的菜; 没等开口就来加水
                叫了三遍才过来; 把我们的菜上错了桌还不认
            上菜
                快, 及时, 顺畅
                慢, 混乱, 拖拉
                十分钟就齐了; 一道接一道刚好吃得上
                等了一个多小时; 催了四次才来一盘
            价格
                实惠, 公道, 划算
                贵, 离谱, 虚高
                对得起这个分量; 学生也吃得起
                结账时比菜单上还高; 够在别处吃两顿
            分量
                足, 实在, 大
                少, 小气, 寒酸
                两个人根本吃不完; 够我吃两顿
                几口就没了; 还不够塞牙缝
            店里环境
                干净, 安静, 温馨
                吵, 脏, 拥挤
                让人想多坐一会儿; 连洗手间都收拾得很清爽
                一股油烟味; 吵得说话都得靠喊
            调料
                地道, 讲究, 丰富
                呛, 单调, 刺鼻
                一尝就是家乡的味道; 香而不燥
                除了辣还是辣; 像倒了半瓶味精
        """,
    },
    "film": {
        "openers": [
            "首映当天看的。",
            "在飞机上看完的。",
            "陪孩子一起看的。",
            "没看过原著。",
            "两个多小时。",
            "周日晚上在家看的。",
            "冲着导演去的。",
            "朋友拉着去的。",
        ],
        "good": [
            "值得二刷。",
            "强烈安利。",
            "走出影院还在回味。",
            "今年看得最过瘾的一部。",
            "票钱没白花。",
        ],
        "bad": [
            "看得我直打瞌睡。",
            "中途就想走了。",
            "浪费两个小时。",
            "劝大家别看。",
            "票钱打了水漂。",
        ],
        "aspects": """
            剧情
                紧凑, 新颖, 扎实
                老套, 混乱, 牵强
                环环相扣; 到最后一刻还让人猜不透
                漏洞百出; 看了开头就知道结尾
            女主角
                自然, 灵动, 动人
                僵硬, 做作, 出戏
                一个眼神就是戏; 撑起了整部电影
                从头到尾一个表情; 念台词像背课文
            台词
                幽默, 精炼, 精彩
                尴尬, 啰嗦, 空洞
                句句都说到心里; 逗得全场大笑
                像机器写出来的; 同一件事要讲三遍
            结局
                感人, 巧妙, 利落
                仓促, 莫名其妙, 无聊
                让我想了好几天; 把前面的伏笔都收住了
                毁了前面的一切; 完全说不通
            配乐
                动听, 克制, 高级
                吵, 俗气, 突兀
                一响起来就起鸡皮疙瘩; 和画面配合得天衣无缝
                盖过了人物说话; 硬逼着人哭
            节奏
                明快, 流畅, 舒服
                拖沓, 沉闷, 混乱
                让人舍不得眨眼; 张弛有度
                中间慢得让人想快进; 前松后紧乱成一锅粥
            画面
                唯美, 细腻, 震撼
                粗糙, 昏暗, 廉价
                每一帧都能当壁纸; 把小城拍出了诗意
                晃得我头晕; 像手机随手拍的
            笑点
                密集, 新鲜, 高级
                低俗, 生硬, 老套
                一个接一个停不下来; 让我笑出了眼泪
                冷得全场没一个人笑; 都是网上的旧段子
            反派
                立体, 迷人, 复杂
                脸谱化, 单薄, 可笑
                抢了主角的风头; 坏得让人能理解
                坏得毫无理由; 一出场我就想笑
            特效
                逼真, 惊艳, 精致
                假, 廉价, 敷衍
                看得孩子目瞪口呆; 用得恰到好处
                像十年前的游戏; 五毛都嫌多
            后半段
                精彩, 紧张, 催泪
                无聊, 散, 拖沓
                一眨眼就过去了; 反转得又合理又意外
                完全在凑时间; 把主线忘得一干二净
            配角
                出彩, 鲜活, 可爱
                多余, 平庸, 尴尬
                个个有戏; 几场戏就让人记住了
                来来去去像走过场; 没一个让人记得住
        """,
    },
    "phone": {
        "openers": [
            "给妈妈买的。",
            "用了三个星期。",
            "从旧款换过来的。",
            "平时主要看书拍照。",
            "蓝色中杯。",
            "周五下单周六就到。",
            "工作用的备用机。",
            "这个牌子的第二台了。",
        ],
        "good": ["这钱花得值。", "已经让我弟也下单了。", "会一直用下去。", "闭眼入。", "给五星。"],
        "bad": ["已经退货了。", "谁买谁后悔。", "又换回旧手机了。", "别买。", "给一星都嫌多。"],
        "aspects": """
            电池
                耐用, 给力, 省心
                虚, 差劲, 坑人
                能撑两天; 到睡觉还剩一半电
                中午就没电了; 放着不动也掉电
            屏幕
                清晰, 亮, 细腻
                暗, 模糊, 偏黄
                大太阳底下也看得清; 看久了眼睛也不累
                晚上老是闪; 用了一个礼拜就裂了
            拍照
                清楚, 自然, 快
                糊, 失真, 慢
                夜里也能拍得明明白白; 抓拍我家狗一拍一个准
                把人脸拍成橘子色; 半天对不上焦
            音质
                好, 饱满, 清亮
                差, 闷, 单薄
                外放都能当小音箱; 听人声特别舒服
                开大一点就破音; 像从罐头里传出来的
            指纹解锁
                灵敏, 快, 准
                迟钝, 慢, 难用
                一碰就开; 手湿着也能认出来
                十次有五次失败; 后来干脆不认我的手指了
            系统
                流畅, 干净, 顺手
                卡, 乱, 臃肿
                一次都没死过机; 老人也能一看就会
                到处是广告; 打着电话就自己重启
            手感
                好, 轻巧, 扎实
                差, 沉, 滑
                一只手拿着正好; 像握着一块鹅卵石
                硌手; 滑得老往地上掉
            充电
                快, 方便, 稳定
                慢, 麻烦, 烫手
                四十分钟就满了; 吃个早饭的工夫就够用一天
                充一夜都不满; 烫得不敢摸
            信号
                强, 稳定, 好
                弱, 差, 飘
                在电梯里都没断过; 地下车库也能打电话
                一进屋就没了; 说几句就断一次
            做工
                精细, 扎实, 讲究
                粗糙, 松垮, 马虎
                摔了一跤都没事; 边角都打磨得很圆润
                按键用一个月就掉了; 机身一捏就吱吱响
            客服
                专业, 热心, 周到
                敷衍, 冷淡, 傲慢
                一小时内就回复了; 二话不说补寄了充电线
                半个月都没回音; 反过来怪我不会用
            价格
                实在, 合理, 划算
                虚高, 离谱, 贵
                在同档里找不到对手; 省下的钱还能配个壳
                刚买完就降了一半; 都够买更好的了
        """,
    },
    "hotel": {
        "openers": [
            "出差住了两晚。",
            "带两个孩子住的。",
            "半夜才到店。",
            "临时订的房。",
            "三楼靠院子那间。",
            "结婚纪念日来的。",
            "国庆假期入住。",
            "和闺蜜一起来的。",
        ],
        "good": [
            "下次还订这里。",
            "都舍不得退房。",
            "睡得特别香。",
            "放心入住。",
            "性价比没得说。",
        ],
        "bad": [
            "提前一天退了房。",
            "再也不订了。",
            "宁可睡车里。",
            "已经投诉了。",
            "别被照片骗了。",
        ],
        "aspects": """
            房间
                宽敞, 干净, 明亮
                小, 脏, 潮
                比照片还漂亮; 要什么有什么
                和照片完全两样; 一进门就是烟味
            床
                舒服, 宽大, 软和
                硬, 塌, 窄
                躺下就不想起来; 让我们连着睡过头两天
                睡得我腰疼; 翻个身就吱呀响
            淋浴
                舒服, 给力, 方便
                难用, 简陋, 憋屈
                什么时候都有热水; 水压足得很
                把卫生间淹了; 出水像滴眼药水
            早餐
                丰盛, 新鲜, 可口
                单调, 难吃, 寒酸
                有现磨豆浆和热包子; 吃一顿顶到晚上
                八点半就没东西了; 三天都是一个样
            前台
                热情, 贴心, 专业
                冷漠, 傲慢, 散漫
                免费给我们升了房; 还手画了一张老城地图
                找不到我们的订单; 让我们干站了半小时
            窗外风景
                美, 开阔, 迷人
                煞风景, 单调, 难看
                一直能望到山那边; 值得早起看一回
                就是一堵墙; 正对着三个垃圾桶
            泳池
                干净, 暖和, 漂亮
                脏, 挤, 冰
                让孩子玩了一下午; 早上只有我们一家
                整个星期都不开; 漂着一层东西
            位置
                方便, 安静, 好找
                偏, 吵, 难找
                走到海边只要两分钟; 去哪儿都能走着去
                离哪儿都要坐一个钟头的车; 楼下就是夜总会
            毛巾
                柔软, 干净, 厚实
                薄, 硬, 发黄
                每天都换新的; 有股淡淡的皂香
                三天没换过; 上面还有口红印
            隔音
                好, 到位, 理想
                差, 糟糕, 马虎
                关上门什么都听不见; 让人一觉到天亮
                连隔壁打呼噜都听得见; 跟没有一样
            网络
                快, 稳定, 流畅
                慢, 卡, 差
                开视频会议都不卡; 连院子里都连得上
                十分钟掉一次; 还要另外收钱
            保洁阿姨
                仔细, 和气, 勤快
                马虎, 粗鲁, 粗心
                帮我找回了耳环; 给女儿留了个小礼物
                两天没来打扫; 早上七点就来敲门
        """,
    },
}

CHINESE_PLAIN = ["很{}", "挺{}的", "非常{}", "特别{}", "相当{}", "真的很{}"]
CHINESE_NEGATED = ["一点也不{}", "并不{}", "谈不上{}", "算不上{}", "没有那么{}", "不怎么{}"]

CHINESE_PATTERNS = {
    "plain": [
        "{a}。",
        "{a}，{b}。",
        "{a}，而且{b}。",
        "{a}。{b}。",
        "说实话，{a}。",
        "{a}，另外{b}。",
        "总的来说，{a}，{b}。",
        "印象最深的是{a}。",
    ],
    "contrast": [
        "{c}，但是{a}。",
        "{c}，不过{a}，{b}。",
        "虽然{c}，但{a}。",
        "尽管{c}，可{a}才是最关键的。",
        "{c}，{d}，可话说回来，{a}，这才是重点。",
        "就算{c}，{a}这一点也抹不掉。",
        "{c}是真的，可{a}也是真的，我更看重后面这点。",
    ],
    "reported": [
        "都说{e}，我看未必，{p}。",
        "网上说{c}，其实完全不是那么回事。",
        "谁说{e}？明明{p}。",
        "要说{c}，我可不同意。",
        "别信什么“{c}”。",
        "本来以为{e}，没想到{p}。",
        "有人评价{c}，我的体验正好相反。",
    ],
    "only good": [
        "之前还担心{c}，完全是多虑了。",
        "唯一的小遗憾是{c}，别的方面{a}，{b}。",
        "幸好{a}。",
        "原先怕{e}，结果{p}。",
    ],
    "only bad": [
        "我倒是希望{c}。",
        "唯一的安慰是{c}，别的方面{a}，{b}。",
        "可惜{a}。",
        "本来盼着{e}，结果{p}。",
    ],
}

# How often each kind of pattern is used, and in which share of clauses and reviews …
PATTERN_SHARES = {"plain": 0.84, "contrast": 0.09, "reported": 0.04, "only": 0.03}
NEGATED_SHARE = 0.06  # … an adjective of the other side is negated (plain and contrast only)
OPENER_SHARE = 0.35  # … a sentence without an opinion comes first
CLOSER_SHARE = 0.2  # … a verdict comes last


def pick(rng, choices):
    """Return one of the choices; `random()` is the draw that Python promises not to change."""
    return choices[int(rng.random() * len(choices))]


def read_aspects(text):
    """Return the five lines of each aspect."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return [lines[start : start + 5] for start in range(0, len(lines), 5)]


def predicate(rng, words, good, negated, plain, negations):
    """Return what is said of a subject: a phrase, or an adjective as it is or negated."""
    good_adjectives, bad_adjectives, good_phrases, bad_phrases = words
    if rng.random() < 0.5 and not negated:
        return pick(rng, (good_phrases if good else bad_phrases).split("; "))
    adjectives = good_adjectives if good != negated else bad_adjectives
    return pick(rng, negations if negated else plain).format(pick(rng, adjectives.split(", ")))


def english_clause(rng, aspect, good, negated):
    """Return subject, pronoun and predicate, e.g. `("the soup ", "it ", "was hot")`."""
    subject, *words = aspect
    subject, _, verb = subject.rpartition(" ")
    pronoun = PRONOUNS.get(subject, "they" if verb in ("were", "are") else "it")
    plain = [form.format(verb, "{}") for form in ENGLISH_PLAIN]
    negations = [form.format(verb, "{}") for form in ENGLISH_NEGATED]
    return f"{subject} ", f"{pronoun} ", predicate(rng, words, good, negated, plain, negations)


def chinese_clause(rng, aspect, good, negated):
    """Return subject, pronoun and predicate, e.g. `("汤", "", "很鲜")`."""
    subject, *words = aspect
    return subject, "", predicate(rng, words, good, negated, CHINESE_PLAIN, CHINESE_NEGATED)


LANGUAGES = {
    "en": (ENGLISH, ENGLISH_PATTERNS, english_clause, " "),
    "zh": (CHINESE, CHINESE_PATTERNS, chinese_clause, ""),
}


def make_review(rng, language, good):
    """Return one review of the language, good or bad."""
    domains, patterns, clause, space = LANGUAGES[language]
    domain = pick(rng, list(domains.values()))
    (kind,) = rng.choices(list(PATTERN_SHARES), list(PATTERN_SHARES.values()))
    aspects = sorted(read_aspects(domain["aspects"]), key=lambda _: rng.random())
    clauses = {}
    for name, aspect in zip("abcde", (*aspects[:4], aspects[0]), strict=True):
        negated = kind in ("plain", "contrast") and rng.random() < NEGATED_SHARE
        agrees = name in "ab"
        subject, pronoun, said = clause(rng, aspect, good == agrees, negated)
        clauses[name] = subject + said
        if name == "a":
            clauses["p"] = pronoun + said
    if kind == "only":
        kind = "only good" if good else "only bad"
    text = pick(rng, patterns[kind]).format(**clauses)
    text = re.sub(r"(?:^|[.] )[a-z]", lambda start: start.group().upper(), text)
    if rng.random() < OPENER_SHARE:
        text = pick(rng, domain["openers"]) + space + text
    if rng.random() < CLOSER_SHARE:
        text += space + pick(rng, domain["good" if good else "bad"])
    return text


def make_sample(language, seed=0):
    """Return `{split: [(text, label), …]}`, with every text once in all splits together."""
    rng = random.Random(seed)
    splits = {split: [] for split in ROWS}
    seen = set()
    for label in ("negative", "positive"):
        for split, rows in ROWS.items():
            while sum(row[1] == label for row in splits[split]) < rows // 2:
                text = make_review(rng, language, label == "positive")
                if text not in seen:
                    seen.add(text)
                    splits[split].append((text, label))
    return {split: sorted(rows, key=lambda _: rng.random()) for split, rows in splits.items()}


def write_samples(folder):
    """Write `reviews_LANGUAGE_SPLIT.csv` for each language and split into a folder."""
    for language in LANGUAGES:
        for split, rows in make_sample(language).items():
            path = Path(folder) / f"reviews_{language}_{split}.csv"
            with open(path, "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(("text", "label"))
                writer.writerows(rows)


if __name__ == "__main__":
    write_samples(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
